package scan

import (
	"context"
	"errors"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// Visibility queries for what has not ended. A server that does not know the status Paused refuses the second one, and has nothing that
// is paused in this way.
const (
	onlyRunning     = "ExecutionStatus = 'Running'"
	runningOrPaused = "ExecutionStatus IN ('Running', 'Paused')"
)

// Holder is something that still runs, or will, and holds payloads under the keys that a search is about.
type Holder struct {
	// workflow, schedule, activity (a standalone one) or nexus operation.
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	RunID string `json:"run_id,omitempty"`
	// Type of the workflow.
	Type string `json:"type,omitempty"`
	// Cron is the workflow's cron schedule, which starts it again with the same input.
	Cron string `json:"cron_schedule,omitempty"`
	// Retries: the workflow has a retry policy, by which a run that fails is started again with the same input.
	Retries bool `json:"retry_policy,omitempty"`
	// Retrying are the ids of its activities that failed and are tried again.
	Retrying []string `json:"retrying_activities,omitempty"`
	// Children counts its child workflows that run. When it is terminated, the server does with each what its parent close policy says.
	Children int `json:"pending_children,omitempty"`
	// Terminated: the search has ended the workflow.
	Terminated bool `json:"terminated,omitempty"`
}

// Running finds what runs and holds payloads under certain keys. Options has what a Scanner needs for it.
type Running struct {
	Rewriter *rewrite.Rewriter // required
	Keys     map[crypto.KeyID]bool
	Most     int // workflows to read, at most
	// Beyond counts the workflows that were not read for that.
	Beyond int
	// Holders is what was found.
	Holders []*Holder
	// Unread are causes why an answer may hold more than was found.
	Unread []string

	read  int     // workflows
	last  *Holder // to which the latest answer belongs
	holds bool    // it is in Holders
}

// Options returns those of a Scanner that searches. query narrows the workflows; "": all that run.
func (r *Running) Options(query string) Options {
	narrowed := runningOrPaused
	if query != "" {
		narrowed += " AND (" + query + ")"
	}
	return Options{Rewriter: r.Rewriter, Running: true, Query: narrowed, Look: r.look, Want: r.want, Progress: func(string, string, *Namespace) {}}
}

// want reports whether one more workflow is read.
func (r *Running) want(string, *workflowpb.WorkflowExecutionInfo) bool {
	if r.read == r.Most {
		r.Beyond++
		return false
	}
	r.read++
	return true
}

// Terminate terminates the workflows that were found, so many a second at most, and returns what it could not do.
func (r *Running) Terminate(ctx context.Context, conn grpc.ClientConnInterface, namespace, reason string, perSecond float64) (failed []string) {
	client, limit := workflowservice.NewWorkflowServiceClient(conn), rate.NewLimiter(rate.Limit(perSecond), 1)
	ended := 0
	for _, h := range r.Holders {
		if h.Kind != "workflow" {
			continue
		}
		err := limit.Wait(ctx)
		if err == nil {
			limited, cancel := context.WithTimeout(ctx, callTimeout)
			_, err = client.TerminateWorkflowExecution(limited, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: namespace,
				WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: h.ID, RunId: h.RunID}, Reason: reason, Identity: "temporal-seal"})
			cancel()
		}
		switch {
		case err == nil:
			h.Terminated = true
		case status.Code(err) == codes.NotFound:
			ended++
		default: // the server's message may name the workflow
			failed = append(failed, fmt.Sprintf("the run %s was not terminated: %s", h.RunID, status.Code(err)))
		}
	}
	if ended > 0 {
		failed = append(failed, fmt.Sprintf("workflows that ended before they were terminated: %d; search again, since other runs may have followed", ended))
	}
	return failed
}

// look looks at one answer of the server.
func (r *Running) look(a *Answer) {
	h := holderOf(a)
	if h == nil {
		return
	}
	if r.last == nil || h.Kind != r.last.Kind || h.ID != r.last.ID || h.RunID != r.last.RunID {
		r.last, r.holds = h, false
	}
	r.last.note(a.Message)
	keys, err := keysIn(r.Rewriter, a)
	if err != nil && len(r.Unread) < maxReasons {
		r.Unread = append(r.Unread, err.Error())
	}
	for _, key := range keys {
		if r.Keys[key] && !r.holds {
			r.holds = true
			r.Holders = append(r.Holders, r.last)
		}
	}
}

// holderOf returns to what an answer belongs; nil if that does not run.
func holderOf(a *Answer) *Holder {
	if e := a.Workflow; e != nil {
		return &Holder{Kind: "workflow", ID: e.GetExecution().GetWorkflowId(), RunID: e.GetExecution().GetRunId(), Type: e.GetType().GetName()}
	}
	switch m := a.Message.(type) {
	case *workflowservice.DescribeScheduleResponse:
		return &Holder{Kind: "schedule", ID: strings.TrimPrefix(a.Where, "schedule ")}
	case *workflowservice.DescribeActivityExecutionResponse:
		switch m.GetInfo().GetStatus() {
		case enumspb.ACTIVITY_EXECUTION_STATUS_RUNNING, enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED:
			return &Holder{Kind: "activity", ID: m.GetInfo().GetActivityId(), RunID: m.GetInfo().GetRunId()}
		}
	case *workflowservice.DescribeNexusOperationExecutionResponse:
		if m.GetInfo().GetStatus() == enumspb.NEXUS_OPERATION_EXECUTION_STATUS_RUNNING {
			return &Holder{Kind: "nexus operation", ID: m.GetInfo().GetOperationId(), RunID: m.GetInfo().GetRunId()}
		}
	}
	return nil
}

// note adds what an answer says about when the holder's payloads are used again.
func (h *Holder) note(answer proto.Message) {
	switch m := answer.(type) {
	case *workflowservice.DescribeWorkflowExecutionResponse:
		h.Children = len(m.GetPendingChildren())
		for _, a := range m.GetPendingActivities() {
			if a.GetAttempt() > 1 {
				h.Retrying = append(h.Retrying, a.GetActivityId())
			}
		}
	case *workflowservice.GetWorkflowExecutionHistoryResponse:
		for _, e := range m.GetHistory().GetEvents() {
			if started := e.GetWorkflowExecutionStartedEventAttributes(); started != nil {
				h.Cron, h.Retries = started.GetCronSchedule(), started.GetRetryPolicy() != nil
			}
		}
	}
}

// keysIn returns the ids of the keys that sealed payloads in an answer name. An error means that there may be more.
func keysIn(rewriter *rewrite.Rewriter, a *Answer) (keys []crypto.KeyID, err error) {
	n := newNamespace()
	options := Options{Rewriter: rewriter, Found: func(h *envelope.Header, _ string) { keys = append(keys, h.ID) }}
	w := &walk{scanner: &Scanner{options: options}, found: n, counter: counter{options: &options, found: n}}
	w.count(a.Message, "an answer") // the name of a thing may be data
	if n.Unread > 0 {
		err = errors.New(strings.Join(n.Reasons, "; "))
	}
	return keys, err
}
