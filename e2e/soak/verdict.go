package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// verdict is what became of all jobs.
type verdict struct{ started, right, wrong, lost int }

func (v verdict) String() string {
	return fmt.Sprintf("workflows: %d started, %d right, %d wrong, %d lost", v.started, v.right, v.wrong, v.lost)
}

func (v verdict) err() error {
	if v.started == 0 || v.right != v.started || v.wrong+v.lost > 0 {
		return errors.New("not every workflow has its right result")
	}
	return nil
}

// verdict counts: lost are those whose client got no answer to the end.
func (t *tally) verdict() verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := verdict{started: t.onServer, right: t.right}
	for _, j := range t.failed {
		if errors.Is(j.err, context.Canceled) || errors.Is(j.err, context.DeadlineExceeded) || mayPass(j.err) {
			v.lost++
		} else {
			v.wrong++
		}
	}
	return v
}

// explain reports, for jobs that failed, what the server shows, past the proxy.
func (s *soak) explain(ctx context.Context, direct client.Client, t *tally) {
	const most = 20
	for _, j := range t.failed[:min(len(t.failed), most)] {
		s.say("%s: %v (trouble before that: %v)", j.id, j.err, j.trouble)
		d, err := direct.DescribeWorkflowExecution(ctx, j.id, "")
		if err != nil {
			s.say("  the server: %v", err)
			continue
		}
		s.say("  the server: %s, %d events", d.WorkflowExecutionInfo.Status, d.WorkflowExecutionInfo.HistoryLength)
		for _, a := range d.PendingActivities {
			s.say("  pending activity %s: %s, attempt %d, paused %v, last failure %q", a.ActivityType.GetName(), a.State, a.Attempt, a.Paused, a.LastFailure.GetMessage())
		}
		for _, c := range d.PendingChildren {
			s.say("  pending child %s", c.WorkflowId)
		}
		if task := d.PendingWorkflowTask; task != nil {
			s.say("  pending workflow task: %s, attempt %d", task.State, task.Attempt)
		}
		if events, err := history(ctx, direct, d.WorkflowExecutionInfo); err == nil {
			for _, e := range events[max(len(events)-6, 0):] {
				s.say("  event %d: %s at %s", e.EventId, e.EventType, e.EventTime.AsTime().Format(time.TimeOnly))
			}
		}
	}
	if len(t.failed) > most {
		s.say("and %d more", len(t.failed)-most)
	}
}

func history(ctx context.Context, c client.Client, e *workflowpb.WorkflowExecutionInfo) (events []*historypb.HistoryEvent, err error) {
	for i := c.GetWorkflowHistory(ctx, e.Execution.WorkflowId, e.Execution.RunId, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		event, err := i.Next()
		if err != nil {
			return nil, err
		}
		events = append(events, event)
	}
	return events, nil
}

// leftOver lists what still runs of what nobody waits for by name: children, and workflows behind operations.
func leftOver(ctx context.Context, direct client.Client, namespace string) (ids []string, err error) {
	for end := time.Now().Add(time.Minute); ; wait(ctx, 500*time.Millisecond) { // visibility lags behind
		ids = nil
		list, err := direct.WorkflowService().ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: namespace, PageSize: 100, Query: "ExecutionStatus = 'Running'"})
		if err == nil {
			for _, e := range list.Executions {
				if e.Execution.WorkflowId != controlID {
					ids = append(ids, e.Execution.WorkflowId)
				}
			}
		}
		if err == nil && len(ids) == 0 || ctx.Err() != nil || time.Now().After(end) {
			return ids, err
		}
	}
}

// controlID is a workflow that was started past the proxy: its secret has to be found, or the search is blind.
const controlID = "control"

// sweep searches the server's database and the proxies' logs for every secret.
func (s *soak) sweep() (found int, err error) {
	sweep := harness.NewSweep(s.canaries)
	if err := sweep.Files(s.database()); err != nil {
		return 0, err
	}
	for _, r := range s.replicas {
		for _, log := range r.allLogs() {
			sweep.Bytes("log of proxy "+r.name, log.Bytes())
		}
	}
	count, searched := sweep.Count()
	found = count
	findings, _ := sweep.Found()
	if slices.ContainsFunc(findings, func(f harness.Finding) bool { return f.Site == controlID }) {
		found--
	} else {
		err = errors.New("the secret that was stored in clear on purpose was not found: the search is blind")
	}
	s.say("searched %.0f MB of database and logs for %d secrets", megabytes(searched), s.canaries.Len()-1)
	if found > 0 {
		s.say("%s", sweep.Report())
	}
	return found, err
}

// complaints counts what the proxies wrote to their logs, by level and message. A panic is nobody's to get over.
func (s *soak) complaints() error {
	count := map[string]int{}
	var panics error
	for _, r := range s.replicas {
		for _, log := range r.allLogs() {
			for _, line := range log.Lines() {
				level, _ := line["level"].(string)
				text, _ := line["msg"].(string)
				if level == "WARN" || level == "ERROR" {
					if code, ok := line["code"].(string); ok {
						text += ", " + code
					}
					count[level+" "+text]++
				}
				if _, ok := line["panic"]; ok {
					panics = fmt.Errorf("proxy %s: a call ended in a panic: %v", r.name, line)
				}
			}
			if text := log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "\ngoroutine ") || strings.Contains(text, "fatal error:") {
				panics = fmt.Errorf("proxy %s crashed:\n%s", r.name, text[max(len(text)-4000, 0):])
			}
		}
	}
	for text, n := range count {
		s.say("in the proxies' logs: %d times %s", n, text)
	}
	return panics
}

// lateness counts what shows in histories of tasks that were lost on their way: each waited for its start-to-close
// timeout. sticky are workflow tasks that no worker asked for in time, which a machine with too much to do has as well.
type lateness struct{ activities, workflowTasks, attempts, sticky int }

func (l lateness) String() string {
	return fmt.Sprintf("timed out after their start: %d activities, %d workflow tasks; attempts above 1: %d; sticky queues left late: %d",
		l.activities, l.workflowTasks, l.attempts, l.sticky)
}

// lost are tasks that were handed out and did not arrive.
func (l lateness) lost() int { return l.activities + l.workflowTasks + l.attempts }

// look reads the histories of all workflows that started since a point in time, past the proxy.
func look(ctx context.Context, direct client.Client, since time.Time) (l lateness, err error) {
	var token []byte
	for {
		page, err := direct.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{PageSize: 200, NextPageToken: token,
			Query: fmt.Sprintf("StartTime >= '%s'", since.UTC().Format(time.RFC3339Nano))})
		if err != nil {
			return l, err
		}
		for _, e := range page.Executions {
			events, err := history(ctx, direct, e)
			if err != nil {
				return l, err
			}
			l.add(events)
		}
		if token = page.NextPageToken; len(token) == 0 {
			return l, nil
		}
	}
}

func (l *lateness) add(events []*historypb.HistoryEvent) {
	for _, e := range events {
		switch e.EventType {
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
			l.activities++
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT:
			if e.GetWorkflowTaskTimedOutEventAttributes().GetTimeoutType() == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START {
				l.sticky++
			} else {
				l.workflowTasks++
			}
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			if e.GetActivityTaskStartedEventAttributes().GetAttempt() > 1 {
				l.attempts++
			}
		}
	}
}
