package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
)

var region = temporal.NewSearchAttributeKeyKeyword("Region")

// scenarios are what a program does, by name.
var scenarios = map[string]func(*run, context.Context) error{
	"values":       (*run).values,
	"failures":     (*run).failures,
	"retries":      func(r *run, ctx context.Context) error { return r.returns(ctx, "Retrying") },
	"heartbeats":   func(r *run, ctx context.Context) error { return r.returns(ctx, "Beating") },
	"cancellation": (*run).cancellation,
	"signals":      (*run).signals,
	"queries":      (*run).queries,
	"updates":      (*run).updates,
	"children":     func(r *run, ctx context.Context) error { return r.returns(ctx, "Parent") },
	"continue":     func(r *run, ctx context.Context) error { return r.returns(ctx, "Again", 2, "carried") },
	"memo":         (*run).memo,
	"headers":      (*run).headers,
	"local":        func(r *run, ctx context.Context) error { return r.returns(ctx, "Local") },
	"markers":      func(r *run, ctx context.Context) error { return r.returns(ctx, "Markers") },
	"schedules":    (*run).schedules,
	"async":        (*run).async,
	"replay":       (*run).replay,
}

// returns runs a workflow that returns a text.
func (r *run) returns(ctx context.Context, name string, args ...any) error {
	var out string
	err := r.result(ctx, &out, name, args...)
	r.print("%s", out)
	return err
}

func (r *run) values(ctx context.Context) error {
	in := document{
		Yes: true, Large: 9007199254740991, Small: -0.1, Text: "é漢字🎉\u2028\"\\ " + r.secret("text"),
		Nested:  map[string]any{"deep": []any{map[string]any{"er": r.secret("nested")}, nil}},
		Nothing: []string{},
	}
	var out document
	if err := r.result(ctx, &out, "Document", in); err != nil {
		return err
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err
	}
	r.print("document %s", text)
	raw := append([]byte{0, 255, 128, '"'}, r.secret("bytes")...)
	var back []byte
	if err := r.result(ctx, &back, "Bytes", raw); err != nil {
		return err
	}
	r.print("bytes %v %s", back[:4], back[4:])
	var none *string
	if err := r.result(ctx, &none, "Null", nil); err != nil {
		return err
	}
	r.print("null %v", none == nil)
	large := strings.Repeat("0123456789", 50_000) + r.secret("large")
	var largeBack string
	if err := r.result(ctx, &largeBack, "Text", large); err != nil {
		return err
	}
	r.print("large %d %v %s", len(largeBack), large == largeBack, largeBack[500_000:])
	return nil
}

// chain prints an error and its causes, and how often one of them has its stack trace.
func (r *run) chain(err error) {
	for ; err != nil; err = errors.Unwrap(err) {
		switch e := err.(type) {
		case *temporal.ApplicationError:
			var text string
			var number int
			_ = e.Details(&text, &number) // without details nothing is printed for them
			r.print("application %s: %s; details %q %d; final %v", e.Type(), e.Message(), text, number, e.NonRetryable())
		case *temporal.PanicError:
			r.print("panic %s; stack %v", e.Error(), strings.Contains(e.StackTrace(), "deepInTheClinic"))
		default:
			r.print("%T", err)
		}
	}
}

func (r *run) failures(ctx context.Context) error {
	for _, name := range []string{"Failing", "Crashing", "Stopping"} {
		err := r.result(ctx, nil, name)
		if err == nil {
			return errors.New(name + " did not fail")
		}
		r.print("%s", name)
		r.chain(err)
	}
	return nil
}

func (r *run) cancellation(ctx context.Context) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{}, "Cleaning")
	if err != nil {
		return err
	}
	if err := r.awaitHeartbeat(ctx, w); err != nil {
		return err
	}
	if err := r.client.CancelWorkflow(ctx, w.GetID(), w.GetRunID()); err != nil {
		return err
	}
	var out string
	if err := w.Get(ctx, &out); err != nil {
		return err
	}
	r.print("%s", out)
	w, err = r.start(ctx, client.StartWorkflowOptions{}, "Waiting")
	if err != nil {
		return err
	}
	if err := r.client.CancelWorkflow(ctx, w.GetID(), w.GetRunID()); err != nil {
		return err
	}
	err = w.Get(ctx, nil)
	var cancelled *temporal.CanceledError
	r.print("cancelled %v", errors.As(err, &cancelled))
	return nil
}

// awaitHeartbeat waits until the server returns the details of the activity's heartbeat, and prints them.
func (r *run) awaitHeartbeat(ctx context.Context, w client.WorkflowRun) error {
	for {
		d, err := r.client.DescribeWorkflowExecution(ctx, w.GetID(), w.GetRunID())
		if err != nil {
			return err
		}
		for _, a := range d.PendingActivities {
			if a.HeartbeatDetails != nil {
				r.print("heartbeat %s", a.HeartbeatDetails.Payloads[0].Data)
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (r *run) signals(ctx context.Context) error {
	note := func(what string) map[string]string { return map[string]string{"text": r.secret(what)} }
	o := client.StartWorkflowOptions{ID: r.id("Noting"), TaskQueue: r.queue}
	w, err := r.client.SignalWithStartWorkflow(ctx, o.ID, "note", note("first"), o, "Noting")
	if err != nil {
		return err
	}
	if err := r.client.SignalWorkflow(ctx, o.ID, "", "note", note("second")); err != nil {
		return err
	}
	if err := r.result(ctx, nil, "Poking", o.ID); err != nil {
		return err
	}
	var out string
	err = w.Get(ctx, &out)
	r.print("%s", out)
	return err
}

func (r *run) queries(ctx context.Context) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{}, "Asked")
	if err != nil {
		return err
	}
	answer, err := r.client.QueryWorkflow(ctx, w.GetID(), "", "read", r.secret("question"))
	if err != nil {
		return err
	}
	var text string
	if err := answer.Get(&text); err != nil {
		return err
	}
	r.print("%s", text)
	_, err = r.client.QueryWorkflow(ctx, w.GetID(), "", "broken")
	r.print("%v", err)
	return r.end(ctx, w, nil)
}

// end lets a workflow end and waits for it.
func (r *run) end(ctx context.Context, w client.WorkflowRun, to any) error {
	if err := r.client.SignalWorkflow(ctx, w.GetID(), w.GetRunID(), "end", nil); err != nil {
		return err
	}
	return w.Get(ctx, to)
}

func (r *run) updates(ctx context.Context) error {
	o := client.StartWorkflowOptions{
		ID: r.id("Updated"), TaskQueue: r.queue, WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
	}
	start := r.client.NewWithStartWorkflowOperation(o, "Updated")
	update := func(text string) client.UpdateWorkflowOptions {
		return client.UpdateWorkflowOptions{
			WorkflowID: o.ID, UpdateName: "add", Args: []any{text}, WaitForStage: client.WorkflowUpdateStageCompleted,
		}
	}
	u, err := r.client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start, UpdateOptions: update(r.secret("with start")),
	})
	if err := r.printUpdate(ctx, u, err); err != nil {
		return err
	}
	for _, text := range []string{"good " + r.secret("argument"), "bad " + r.secret("rejected argument"), "fail " + r.secret("failed argument")} {
		u, err := r.client.UpdateWorkflow(ctx, update(text))
		if err := r.printUpdate(ctx, u, err); err != nil {
			return err
		}
	}
	w, err := start.Get(ctx)
	if err != nil {
		return err
	}
	var out string
	err = r.end(ctx, w, &out)
	r.print("%s", out)
	return err
}

// printUpdate prints an update's result, or the application's error that it ended with.
func (r *run) printUpdate(ctx context.Context, u client.WorkflowUpdateHandle, err error) error {
	var text string
	if err == nil {
		err = u.Get(ctx, &text)
	}
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		r.chain(err)
		return nil
	}
	r.print("%s", text)
	return err
}

func (r *run) memo(ctx context.Context) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{
		Memo:                  map[string]any{"desk": r.secret("start")},
		TypedSearchAttributes: temporal.NewSearchAttributes(region.ValueSet("south-" + r.queue)),
		StaticSummary:         r.secret("summary"), StaticDetails: r.secret("details"),
	}, "Memo")
	if err != nil {
		return err
	}
	found := func() (bool, error) { // of what the workflow itself has set: visibility lags
		count, err := r.client.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: "Region = 'north-" + r.queue + "'"})
		return count.GetCount() == 1, err
	}
	for {
		if ok, err := found(); err != nil {
			return err
		} else if ok {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	d, err := r.client.DescribeWorkflow(ctx, w.GetID(), "")
	if err != nil {
		return err
	}
	for _, name := range []string{"desk", "ward"} {
		var text string
		if err := converter.GetDefaultDataConverter().FromPayload(d.Memo.Fields[name], &text); err != nil {
			return err
		}
		r.print("memo %s %s", name, text)
	}
	value, _ := d.TypedSearchAttributes.GetKeyword(region)
	r.print("search attribute %s", value)
	summary, err := d.GetStaticSummary()
	if err != nil {
		return err
	}
	details, err := d.GetStaticDetails()
	r.print("summary %s details %s", summary, details)
	return errors.Join(err, r.end(ctx, w, nil))
}

func (r *run) headers(ctx context.Context) error {
	return r.returns(withUser(ctx, r.secret("user")), "Header")
}

func (r *run) schedules(ctx context.Context) error {
	handle, err := r.client.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: r.id("schedule"), Paused: true, Memo: map[string]any{"why": r.secret("memo")},
		Action: &client.ScheduleWorkflowAction{
			ID: r.id("Scheduled"), TaskQueue: r.queue, Workflow: "Scheduled", Args: []any{r.secret("input")},
		},
	})
	if err != nil {
		return err
	}
	if err := handle.Trigger(ctx, client.ScheduleTriggerOptions{}); err != nil {
		return err
	}
	for {
		d, err := handle.Describe(ctx)
		if err != nil {
			return err
		}
		if len(d.Info.RecentActions) == 0 {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		var why, out string
		if err := converter.GetDefaultDataConverter().FromPayload(d.Memo.Fields["why"], &why); err != nil {
			return err
		}
		err = r.client.GetWorkflow(ctx, d.Info.RecentActions[0].StartWorkflowResult.WorkflowID, "").Get(ctx, &out)
		r.print("%s; %s", why, out)
		return errors.Join(err, handle.Delete(ctx))
	}
}

func (r *run) async(ctx context.Context) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{}, "Async")
	if err != nil {
		return err
	}
	token := <-tokens
	if err := r.client.RecordActivityHeartbeat(ctx, token, r.secret("heartbeat")); err != nil {
		return err
	}
	if err := r.awaitHeartbeat(ctx, w); err != nil {
		return err
	}
	if err := r.client.CompleteActivity(ctx, token, r.secret("by token"), nil); err != nil {
		return err
	}
	<-tokens
	if err := r.client.CompleteActivityByID(ctx, r.namespace, w.GetID(), "", "by-id", r.secret("by id"), nil); err != nil {
		return err
	}
	token = <-tokens
	failure := temporal.NewApplicationError("failed from outside: "+r.secret("failure"), "Outside")
	if err := r.client.CompleteActivity(ctx, token, nil, failure); err != nil {
		return err
	}
	var out string
	err = w.Get(ctx, &out)
	r.print("%s", out)
	return err
}

// replay has a workflow go on with another worker, which has nothing of it but its history.
func (r *run) replay(ctx context.Context) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{}, "Replayed")
	if err != nil {
		return err
	}
	if err := r.printBefore(ctx, w); err != nil {
		return err
	}
	r.worker.Stop()
	if err := r.startWorker(); err != nil {
		return fmt.Errorf("start another worker: %w", err)
	}
	if err := r.printBefore(ctx, w); err != nil {
		return err
	}
	if err := r.client.SignalWorkflow(ctx, w.GetID(), "", "go on", r.secret("note")); err != nil {
		return err
	}
	var out string
	if err := w.Get(ctx, &out); err != nil {
		return err
	}
	r.print("%s", out)
	for events := r.client.GetWorkflowHistory(ctx, w.GetID(), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
		e, err := events.Next()
		if err != nil {
			return err
		}
		if done := e.GetActivityTaskCompletedEventAttributes(); done != nil {
			r.print("history %s", done.Result.Payloads[0].Data)
		}
	}
	return nil
}

// printBefore asks the workflow for what it did first, as soon as it has.
func (r *run) printBefore(ctx context.Context, w client.WorkflowRun) error {
	for {
		answer, err := r.client.QueryWorkflow(ctx, w.GetID(), "", "before")
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		var text string
		err = answer.Get(&text)
		r.print("%s", text)
		return err
	}
}

// cross runs a workflow here of which another program does the work.
func (r *run) cross(ctx context.Context, queue string) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{ID: r.id("for-" + queue)}, "Cross", queue, r.secret("input"))
	if err != nil {
		return err
	}
	var out string
	err = w.Get(ctx, &out)
	r.print("%s", out)
	return err
}
