package erasure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
)

// record is what inputs, results and signals hold.
type record struct {
	PatientID string `json:"patient_id"`
	Note      string `json:"note"`
	Kind      string `json:"kind"`
}

// The kinds of workflows that each patient has. A worker gets the events since its last workflow task, so it goes on with a workflow in
// memory if the activity was scheduled before that task.
const (
	answers = "answers" // the activity answers after the erasure
	retries = "retries" // it fails after the erasure, and is tried again
	behind  = "behind"  // it answers, and there was no workflow task since it was scheduled
	later   = "later"   // it is scheduled after the erasure, by a worker that has the workflow in memory
	closed  = "closed"  // the workflow has ended before
)

// stay is the workflow: an activity, a signal, and an activity that runs while the patient is erased.
func stay(ctx workflow.Context, r record) (record, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 5 * time.Minute,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second}})
	if err := workflow.SetQueryHandler(ctx, "where", func() (string, error) { return queue, nil }); err != nil {
		return r, err
	}
	if err := workflow.ExecuteActivity(ctx, "Admit", r).Get(ctx, &r); err != nil || r.Kind == closed {
		return r, err
	}
	workflow.GetSignalChannel(ctx, "note").Receive(ctx, &r)
	if r.Kind == later {
		workflow.GetSignalChannel(ctx, "go on").Receive(ctx, nil)
	}
	err := workflow.ExecuteActivity(ctx, "Watch", r).Get(ctx, &r)
	return r, err
}

// ward runs the activities. Those that watch wait until goOn is closed.
type ward struct{ goOn chan struct{} }

func (w ward) admit(_ context.Context, r record) (record, error) { return r, nil }

func (w ward) watch(ctx context.Context, r record) (record, error) {
	select {
	case <-w.goOn:
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if r.Kind == retries && activity.GetInfo(ctx).Attempt == 1 {
		return r, errors.New("not yet")
	}
	return r, nil
}

// patient has workflows with values of theirs.
type patient struct {
	id, note string
	runs     []client.WorkflowRun
	later    client.WorkflowRun
	closed   client.WorkflowRun
	saved    []*historypb.History // of runs, as the server has them, from before the erasure
}

// payloads are those of a history.
func payloads(h *historypb.History) (list []*commonpb.Payload) {
	for _, e := range h.GetEvents() {
		list = append(list, e.GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()...)
		list = append(list, e.GetActivityTaskScheduledEventAttributes().GetInput().GetPayloads()...)
		list = append(list, e.GetActivityTaskCompletedEventAttributes().GetResult().GetPayloads()...)
		list = append(list, e.GetWorkflowExecutionSignaledEventAttributes().GetInput().GetPayloads()...)
	}
	return list
}

// expected is what stands in each value of a patient, and what stands in none.
type expected struct {
	of        *patient
	text, not string
}

func opens(p *patient) expected  { return expected{p, p.note, "[erased on "} }
func erased(p *patient) expected { return expected{p, "[erased on ", p.note} }

// in is an error unless a list has as many values as a saved history at least, and all are as expected.
func (e expected) in(list []*commonpb.Payload, err error) error {
	if err != nil {
		return err
	}
	if least := len(payloads(e.of.saved[0])); len(list) < least {
		return fmt.Errorf("%d payloads, want %d", len(list), least)
	}
	for i, p := range list {
		if !strings.Contains(string(p.GetData()), e.text) || strings.Contains(string(p.GetData()), e.not) {
			return fmt.Errorf("payload %d, with the encoding %s, is not what it should be", i, p.GetMetadata()["encoding"])
		}
	}
	return nil
}

// history reads one as a client of some name does, through a proxy or past it.
func (c *clinic) history(s workflowservice.WorkflowServiceClient, id, clientName string) (*historypb.History, error) {
	ctx := c.Context()
	if clientName != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "client-name", clientName)
	}
	answer, err := s.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: c.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	return answer.GetHistory(), err
}

// reads reads all of some patients on each replica, as the Web UI does, and by its codec server.
func (c *clinic) reads(all ...expected) error {
	var failed []error
	for _, r := range c.replicas {
		failed = append(failed, c.readsBy(r, all...))
	}
	return errors.Join(failed...)
}

func (c *clinic) readsBy(r *replica, all ...expected) error {
	var failed []error
	for _, e := range all {
		for i, run := range e.of.runs {
			h, err := c.history(r.raw, run.GetID(), "temporal-ui")
			failed = append(failed, named("history by "+r.name+", "+run.GetID(), e.in(payloads(h), err)))
			opened, err := r.codec.Decode(payloads(e.of.saved[i]))
			failed = append(failed, named("codec server of "+r.name+", "+run.GetID(), e.in(opened, err)))
		}
	}
	return errors.Join(failed...)
}

func named(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// opensSaved has `open` read the saved histories of some patients, as the Temporal CLI saves them, and as the server's archives have them: in
// an array.
func (c *clinic) opensSaved(all ...expected) error {
	var in bytes.Buffer
	for _, e := range all {
		archive := []string{}
		for _, saved := range e.of.saved {
			text, err := protojson.Marshal(saved)
			c.ok(err)
			archive = append(archive, string(text))
			in.Write(append(text, '\n'))
		}
		in.WriteString("[" + strings.Join(archive, ",") + "]\n")
	}
	out, err := c.run(in.String(), "open", "-")
	failed := []error{}
	if err != nil {
		failed = append(failed, err)
	}
	printed := json.NewDecoder(strings.NewReader(out))
	check := func(what string, e expected, text json.RawMessage) {
		h := new(historypb.History)
		err := protojson.Unmarshal(text, h)
		failed = append(failed, named(what, e.in(payloads(h), err)))
	}
	for _, e := range all {
		var one json.RawMessage
		var archive []json.RawMessage
		for range e.of.saved {
			if err := printed.Decode(&one); err != nil {
				return errors.Join(append(failed, err)...)
			}
			check("saved", e, one)
		}
		if err := printed.Decode(&archive); err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, one := range archive {
			check("archived", e, one)
		}
	}
	return errors.Join(failed...)
}

// admit starts the workflows of three patients and waits until the activities that watch run.
func (c *clinic) admit() (all []*patient) {
	c.Helper()
	a := c.replicas[0]
	for n := range 3 {
		p := &patient{id: c.canaries.New(fmt.Sprintf("id of patient %d", n)), note: c.canaries.New(fmt.Sprintf("note of patient %d", n))}
		signals := c.replicas[n%len(c.replicas)] // so the replica b opens for patient 0 and 2, and seals for patient 1 too
		for _, kind := range []string{answers, retries, behind, later, closed} {
			r := record{p.id, p.note, kind}
			run, err := a.sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("stay-%d-%s", n, kind), TaskQueue: queue}, "Stay", r)
			c.ok(err)
			if kind != closed {
				c.ok(signals.sdk.SignalWorkflow(c.Context(), run.GetID(), "", "note", r))
			}
			p.runs = append(p.runs, run)
		}
		p.later, p.closed, p.runs = p.runs[3], p.runs[4], p.runs[:3]
		all = append(all, p)
	}
	for _, p := range all {
		for _, run := range p.runs {
			c.watches(run)
			if !strings.HasSuffix(run.GetID(), behind) {
				c.wake(run)
			}
			p.saved = append(p.saved, c.saves(run))
		}
		c.wake(p.later)
		c.ok(p.closed.Get(c.Context(), nil))
	}
	return all
}

// watches waits until the activity that watches has started.
func (c *clinic) watches(run client.WorkflowRun) {
	c.Helper()
	c.eventually("the activity of "+run.GetID()+" runs", func() error {
		d, err := c.replicas[0].sdk.DescribeWorkflowExecution(c.Context(), run.GetID(), "")
		if err == nil && (len(d.GetPendingActivities()) != 1 || d.GetPendingActivities()[0].GetActivityType().GetName() != "Watch" ||
			d.GetPendingActivities()[0].GetLastStartedTime() == nil) {
			err = errors.New("it does not")
		}
		return err
	})
}

// saves reads a history as the server has it.
func (c *clinic) saves(run client.WorkflowRun) *historypb.History {
	c.Helper()
	h, err := c.history(c.direct.WorkflowService(), run.GetID(), "")
	c.ok(err)
	return h
}

// guest is a patient with one workflow that no worker runs, and which each replica has read.
func (c *clinic) guest(what string) *patient {
	c.Helper()
	p := &patient{id: c.canaries.New("id of the patient " + what), note: c.canaries.New("note of the patient " + what)}
	run, err := c.replicas[0].sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: "guest-" + what, TaskQueue: "nobody"}, "Stay",
		record{PatientID: p.id, Note: p.note})
	c.ok(err)
	p.runs, p.saved = []client.WorkflowRun{run}, []*historypb.History{c.saves(run)}
	c.ok(c.reads(opens(p)))
	return p
}

// signal sends a signal that holds nothing.
func (c *clinic) signal(run client.WorkflowRun, name string) {
	c.Helper()
	_, err := c.replicas[len(c.replicas)-1].raw.SignalWorkflowExecution(c.Context(), &workflowservice.SignalWorkflowExecutionRequest{
		Namespace: c.namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: run.GetID()}, SignalName: name})
	c.ok(err)
}

// wake has a worker do a workflow task.
func (c *clinic) wake(run client.WorkflowRun) {
	c.Helper()
	c.signal(run, "wake")
	c.eventually(run.GetID()+" has done its task", func() error {
		h, err := c.history(c.direct.WorkflowService(), run.GetID(), "")
		if e := h.GetEvents(); err == nil && e[len(e)-1].GetEventType() != enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			err = errors.New("it has not")
		}
		return err
	})
}
