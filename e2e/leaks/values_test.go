package leaks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// What a workflow is started with, what it keeps about itself, and what it returns.

func init() {
	scenarios["Input"] = inputAndResult
	scenarios["Encodings"] = encodings
	scenarios["Memo"] = memo
	scenarios["Header"] = header
	scenarios["SearchAttributes"] = searchAttributes
	scenarios["Metadata"] = userMetadata
	scenarios["EagerStart"] = eagerStart
}

type order struct {
	Customer string
	Lines    []string
	Paid     bool
	Extra    map[string]any
}

func inputAndResult(e *env) {
	in := order{Customer: e.secret("input"), Lines: []string{"ä\"<>&\u2028" + e.secret("nested input"), ""}, Extra: map[string]any{"x": nil, "n": 1.5}}
	plain := e.secret("second argument")
	result, receipt := e.secret("activity result"), e.secret("result")
	e.worker(
		flow("Order", func(ctx workflow.Context, o order, second string) (order, error) {
			var got string
			if err := workflow.ExecuteActivity(activityOptions(ctx), "Charge", o, second).Get(ctx, &got); err != nil {
				return o, err
			}
			if got != result {
				return o, fmt.Errorf("activity result arrived as %q", got)
			}
			o.Customer, o.Paid = receipt, true
			return o, nil
		}),
		act("Charge", func(_ context.Context, o order, second string) (string, error) {
			e.same("activity input", o, in)
			e.same("second activity input", second, plain)
			return result, nil
		}),
	)
	want := in
	want.Customer, want.Paid = receipt, true
	e.returns(e.start(client.StartWorkflowOptions{}, "Order", in, plain), want)
}

// encodings sends what other encoders than JSON make, and payloads at the edges: empty, large, without metadata.
func encodings(e *env) {
	raw := []byte(e.secret("bytes"))
	big := strings.Repeat(e.secret("large"), 6000)
	proto := &commonpb.WorkflowExecution{WorkflowId: e.secret("protobuf")}
	custom := &commonpb.Payload{
		Metadata: map[string][]byte{"encoding": []byte("my-encoding"), "owner": []byte(e.secret("metadata value"))},
		Data:     []byte(e.secret("encoding of its own")),
	}
	bare := &commonpb.Payload{Data: []byte(e.secret("no metadata"))}
	e.worker(flow("Echo", func(_ workflow.Context, b []byte, empty []byte, none *string, s string, p *commonpb.WorkflowExecution, c, m converter.RawValue) ([]any, error) {
		e.same("bytes", b, raw)
		e.same("nil", none, (*string)(nil))
		e.same("length of the empty bytes", len(empty), 0)
		e.same("protobuf", p.GetWorkflowId(), proto.WorkflowId)
		e.same("payload with an encoding of its own", c.Payload().String(), custom.String())
		e.same("payload without metadata", m.Payload().String(), bare.String())
		return []any{s, len(b), nil}, nil
	}))
	run := e.start(client.StartWorkflowOptions{}, "Echo", raw, []byte{}, nil, big, proto, converter.NewRawValue(custom), converter.NewRawValue(bare))
	e.returns(run, []any{big, float64(len(raw)), nil})

	e.worker2("EchoBytes", func(_ workflow.Context, b []byte) ([]byte, error) { return b, nil })
	blob := bytes.Repeat(raw, 10)
	e.returns(e.start(client.StartWorkflowOptions{TaskQueue: e.queue() + "-EchoBytes"}, "EchoBytes", blob), blob)
}

// worker2 starts a further worker, for one workflow on a queue of its own.
func (e *env) worker2(name string, fn any) { e.workerOn(e.queue()+"-"+name, flow(name, fn)) }

func memo(e *env) {
	atStart, upserted, dropped := e.secret("at start"), e.secret("upserted"), e.secret("dropped")
	e.worker(flow("Memo", func(ctx workflow.Context) error {
		if err := workflow.UpsertMemo(ctx, map[string]any{"note": upserted, "dropped": nil}); err != nil {
			return err
		}
		untilSignal(ctx, "finish")
		return nil
	}))
	run := e.start(client.StartWorkflowOptions{Memo: map[string]any{"kept": atStart, "dropped": dropped, "note": "none yet"}}, "Memo")
	e.eventually("memo", func() error {
		d := e.describe(run)
		var kept, note string
		if err := errors.Join(d.GetMemoValue("kept", &kept), d.GetMemoValue("note", &note)); err != nil {
			return err
		}
		if _, ok := d.Memo.GetFields()["dropped"]; ok || kept != atStart || note != upserted {
			return fmt.Errorf("memo is kept=%q note=%q, %d fields", kept, note, len(d.Memo.GetFields()))
		}
		return nil
	})
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "finish", nil), "signal")
	e.ok(run.Get(e.ctx, nil), "run")
	e.eventually("memo in a list", func() error {
		list, err := e.client.ListWorkflow(e.ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("WorkflowId = %q AND CloseTime IS NOT NULL", run.GetID())})
		if err != nil || len(list.Executions) != 1 {
			return fmt.Errorf("list: %d executions, %v", len(list.GetExecutions()), err)
		}
		var note string
		if err := converter.GetDefaultDataConverter().FromPayload(list.Executions[0].Memo.Fields["note"], &note); err != nil || note != upserted {
			return fmt.Errorf("note = %q, %v", note, err)
		}
		return nil
	})
}

// userPropagator carries a value of the caller's context in a header, as tracing and user identity do.
type userPropagator struct{}

type userKey struct{}

func (userPropagator) Inject(ctx context.Context, w workflow.HeaderWriter) error {
	return writeUser(ctx.Value(userKey{}), w)
}

func (userPropagator) InjectFromWorkflow(ctx workflow.Context, w workflow.HeaderWriter) error {
	return writeUser(ctx.Value(userKey{}), w)
}

func writeUser(v any, w workflow.HeaderWriter) error {
	if v == nil {
		return nil
	}
	p, err := converter.GetDefaultDataConverter().ToPayload(v)
	if err != nil {
		return err
	}
	w.Set("authorization", p)
	return nil
}

func (userPropagator) Extract(ctx context.Context, r workflow.HeaderReader) (context.Context, error) {
	v, err := readUser(r)
	if v == "" {
		return ctx, err
	}
	return context.WithValue(ctx, userKey{}, v), err
}

func (userPropagator) ExtractToWorkflow(ctx workflow.Context, r workflow.HeaderReader) (workflow.Context, error) {
	v, err := readUser(r)
	if v == "" {
		return ctx, err
	}
	return workflow.WithValue(ctx, userKey{}, v), err
}

func readUser(r workflow.HeaderReader) (v string, err error) {
	if p, ok := r.Get("authorization"); ok {
		err = converter.GetDefaultDataConverter().FromPayload(p, &v)
	}
	return v, err
}

func header(e *env) {
	token, other := e.secret("workflow header"), e.secret("update, query and signal header")
	seen := func(what string, got any, want string) {
		if got != any(want) {
			e.Errorf("header of %s arrived as %v, want %q", what, got, want)
		}
	}
	e.worker(
		flow("Parent", func(ctx workflow.Context) error {
			seen("workflow", ctx.Value(userKey{}), token)
			if err := workflow.SetQueryHandler(ctx, "who", func() (string, error) { return "me", nil }); err != nil {
				return err
			}
			if err := workflow.SetUpdateHandler(ctx, "update", func(ctx workflow.Context) error {
				seen("update", ctx.Value(userKey{}), other)
				return nil
			}); err != nil {
				return err
			}
			if err := workflow.ExecuteActivity(activityOptions(ctx), "Act").Get(ctx, nil); err != nil {
				return err
			}
			local := workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{StartToCloseTimeout: 5 * time.Second})
			if err := workflow.ExecuteLocalActivity(local, "Act").Get(ctx, nil); err != nil {
				return err
			}
			if err := workflow.ExecuteChildWorkflow(ctx, "Child").Get(ctx, nil); err != nil {
				return err
			}
			untilSignal(ctx, "finish")
			return workflow.NewContinueAsNewError(ctx, "Child")
		}),
		flow("Child", func(ctx workflow.Context) error {
			seen("child and next run", ctx.Value(userKey{}), token)
			return nil
		}),
		act("Act", func(ctx context.Context) error {
			seen("activity", ctx.Value(userKey{}), token)
			return nil
		}),
	)
	run, err := e.client.ExecuteWorkflow(context.WithValue(e.ctx, userKey{}, token), client.StartWorkflowOptions{ID: e.id(), TaskQueue: e.queue()}, "Parent")
	e.ok(err, "start")
	ctx := context.WithValue(e.ctx, userKey{}, other)
	handle, err := e.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: "update", WaitForStage: client.WorkflowUpdateStageCompleted})
	e.ok(err, "update")
	e.ok(handle.Get(ctx, nil), "update's result")
	_, err = e.client.QueryWorkflow(ctx, run.GetID(), "", "who")
	e.ok(err, "query")
	e.ok(e.client.SignalWorkflow(ctx, run.GetID(), "", "finish", nil), "signal")
	e.ok(run.Get(e.ctx, nil), "run")
}

// searchAttributes are the one thing that stays readable: the server indexes them.
func searchAttributes(e *env) {
	region, amount := temporal.NewSearchAttributeKeyKeyword("Region"), temporal.NewSearchAttributeKeyInt64("Amount")
	e.worker(flow("Search", func(ctx workflow.Context) error {
		if err := workflow.UpsertTypedSearchAttributes(ctx, amount.ValueSet(42)); err != nil {
			return err
		}
		sa := workflow.GetTypedSearchAttributes(ctx)
		if got, _ := sa.GetKeyword(region); got != "eu-west" {
			return fmt.Errorf("Region arrived as %q", got)
		}
		return nil
	}))
	run := e.start(client.StartWorkflowOptions{TypedSearchAttributes: temporal.NewSearchAttributes(region.ValueSet("eu-west"))}, "Search", e.secret("input"))
	e.ok(run.Get(e.ctx, nil), "run")
	e.eventually("search", func() error {
		list, err := e.client.ListWorkflow(e.ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: `Region = "eu-west" AND Amount = 42`})
		if err != nil || len(list.Executions) != 1 {
			return fmt.Errorf("%d executions, %v", len(list.GetExecutions()), err)
		}
		e.same("search attribute in a list", string(list.Executions[0].SearchAttributes.IndexedFields["Region"].Data), `"eu-west"`)
		return nil
	})
	groups, err := e.client.CountWorkflow(e.ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: `Region = "eu-west" GROUP BY ExecutionStatus`})
	e.ok(err, "count")
	e.same("group", string(groups.Groups[0].GroupValues[0].Data), `"Completed"`)
}

// userMetadata is what the Web UI shows about workflows, activities and timers.
func userMetadata(e *env) {
	summary, details, current := e.secret("workflow summary"), e.secret("workflow details"), e.secret("current details")
	activitySummary, timerSummary := e.secret("activity summary"), e.secret("timer summary")
	handler := e.secret("description of a query")
	e.worker(
		flow("Metadata", func(ctx workflow.Context) error {
			workflow.SetCurrentDetails(ctx, current)
			if err := workflow.SetQueryHandlerWithOptions(ctx, "q", func() (int, error) { return 1, nil }, workflow.QueryHandlerOptions{Description: handler}); err != nil {
				return err
			}
			o := workflow.GetActivityOptions(activityOptions(ctx))
			o.Summary = activitySummary
			if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), "Nothing").Get(ctx, nil); err != nil {
				return err
			}
			if err := workflow.NewTimerWithOptions(ctx, 10*time.Millisecond, workflow.TimerOptions{Summary: timerSummary}).Get(ctx, nil); err != nil {
				return err
			}
			untilSignal(ctx, "finish")
			return nil
		}),
		act("Nothing", func(context.Context) error { return nil }),
	)
	run := e.start(client.StartWorkflowOptions{StaticSummary: summary, StaticDetails: details}, "Metadata")
	d := e.describe(run)
	gotSummary, err := d.GetStaticSummary()
	e.ok(err, "summary")
	e.same("summary", gotSummary, summary)
	gotDetails, err := d.GetStaticDetails()
	e.ok(err, "details")
	e.same("details", gotDetails, details)

	for _, c := range []client.Client{e.direct, e.client} {
		answer, err := c.QueryWorkflow(e.ctx, run.GetID(), "", "__temporal_workflow_metadata")
		e.ok(err, "metadata query")
		if c == e.client {
			var text strings.Builder
			var got converter.RawValue
			e.ok(answer.Get(&got), "metadata")
			text.Write(got.Payload().Data)
			if !strings.Contains(text.String(), current) || !strings.Contains(text.String(), handler) {
				e.Errorf("metadata arrived as %s", text.String())
			}
		}
	}
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "finish", nil), "signal")
	e.ok(run.Get(e.ctx, nil), "run")

	seen := map[string]bool{}
	for events := e.client.GetWorkflowHistory(e.ctx, run.GetID(), "", false, 0); events.HasNext(); {
		event, err := events.Next()
		e.ok(err, "history")
		seen[string(event.GetUserMetadata().GetSummary().GetData())] = true
	}
	for _, s := range []string{summary, activitySummary, timerSummary} {
		if !seen[`"`+s+`"`] {
			e.Errorf("a summary is missing in the history: %v", seen)
		}
	}
}

// eagerStart gets its first workflow task in the answer to the start, and activities in the answer to a task.
func eagerStart(e *env) {
	in, out := e.secret("input"), e.secret("activity result")
	e.worker(
		flow("Eager", func(ctx workflow.Context, s string) (string, error) {
			e.same("input", s, in)
			var got string
			err := workflow.ExecuteActivity(activityOptions(ctx), "Work", s).Get(ctx, &got)
			return got, err
		}),
		act("Work", func(_ context.Context, s string) (string, error) {
			e.same("activity input", s, in)
			return out, nil
		}),
	)
	for range 5 {
		e.returns(e.start(client.StartWorkflowOptions{EnableEagerStart: true}, "Eager", in), out)
	}
}
