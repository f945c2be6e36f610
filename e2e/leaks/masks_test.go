package leaks

import (
	"context"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"
)

func init() { scenarios["Masks"] = masks }

// masking are rules that mask members of the documents which ask for it, wherever a payload may be masked.
const masking = `
request contains {"action": "mask", "fields": ["/ssn", "/cards/*/number"]} if {
	input.payload.kind in {"input", "result", "signal", "query", "update", "memo"}
	not contains(input.payload.path, "accepted_request")
	not contains(input.payload.path, "upserted_memo")
	input.payload.encoding == "json/plain"
	input.content.json.mask
}

request contains {"action": "seal", "fields": ["/patient"]} if {
	input.payload.kind in {"input", "result", "signal", "query", "update", "memo"}
	input.payload.encoding == "json/plain"
	input.content.json.mask
}
`

// chart is a document of which some members are masked, one is sealed, and the rest is readable.
type chart struct {
	Mask    bool   `json:"mask"`
	SSN     any    `json:"ssn"`
	Cards   []card `json:"cards"`
	Patient string `json:"patient"`
	Ward    string `json:"ward"`
}

type card struct {
	Number string `json:"number"`
	Of     string `json:"of"`
}

// masked is the chart as whoever receives it has it.
func (c chart) masked(e *env) chart {
	if e.proxy == nil {
		return c
	}
	c.SSN, c.Cards = "***", []card{{"***", c.Cards[0].Of}, {"***", c.Cards[1].Of}}
	return c
}

// masks sends documents by every way on which they may be masked. Whoever receives one has it masked, with all else as it was.
func masks(e *env) {
	var hidden []string
	made := func(what string) chart {
		c := chart{Mask: true, SSN: e.secret("masked in the " + what), Patient: e.secret("patient in the " + what), Ward: "ward of the " + what,
			Cards: []card{{e.secret("masked in the first card of the " + what), "bank"}, {e.secret("masked in the second card of the " + what), what}}}
		hidden = append(hidden, fmt.Sprint(c.SSN), c.Cards[0].Number, c.Cards[1].Number)
		return c
	}
	input, job, done, note, answer := made("input"), made("activity's input"), made("activity's result"), made("signal"), made("answer")
	change, outcome, memo, result := made("update"), made("outcome"), made("memo"), made("result")
	// The server keeps no arguments of queries, where a search could find them.
	ask := chart{Mask: true, SSN: "asked for", Patient: "somebody", Ward: "a ward", Cards: []card{{"1", "bank"}, {"2", "query"}}}
	e.worker(
		flow("Masked", func(ctx workflow.Context, got chart) (chart, error) {
			e.same("input", got, input.masked(e))
			if err := workflow.SetQueryHandler(ctx, "ask", func(got chart) (chart, error) {
				e.same("arguments of the query", got, ask.masked(e))
				return answer, nil
			}); err != nil {
				return got, err
			}
			if err := workflow.SetUpdateHandler(ctx, "change", func(_ workflow.Context, got chart) (chart, error) {
				e.same("arguments of the update", got, change.masked(e))
				return outcome, nil
			}); err != nil {
				return got, err
			}
			if err := workflow.ExecuteActivity(activityOptions(ctx), "Examine", job).Get(ctx, &got); err != nil {
				return got, err
			}
			e.same("activity's result", got, done.masked(e))
			workflow.GetSignalChannel(ctx, "note").Receive(ctx, &got)
			e.same("signal", got, note.masked(e))
			return result, nil
		}),
		act("Examine", func(_ context.Context, got chart) (chart, error) {
			e.same("activity's input", got, job.masked(e))
			return done, nil
		}),
	)
	run := e.start(client.StartWorkflowOptions{Memo: map[string]any{"chart": memo}}, "Masked", input)
	value, err := e.client.QueryWorkflow(e.ctx, run.GetID(), "", "ask", ask)
	e.ok(err, "query")
	var got chart
	e.ok(value.Get(&got), "answer")
	e.same("answer", got, answer.masked(e))
	handle, err := e.client.UpdateWorkflow(e.ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: "change", Args: []any{change},
		WaitForStage: client.WorkflowUpdateStageCompleted})
	e.ok(err, "update")
	e.ok(handle.Get(e.ctx, &got), "outcome")
	e.same("outcome", got, outcome.masked(e))
	d := e.describe(run)
	e.ok(d.GetMemoValue("chart", &got), "memo")
	e.same("memo", got, memo.masked(e))
	e.ok(e.client.SignalWorkflow(e.ctx, run.GetID(), "", "note", note), "signal")
	e.returns(run, result.masked(e))
	// Answers of queries are not stored either: this one passes the search of what the server answers.
	_, err = e.direct.QueryWorkflow(e.ctx, run.GetID(), "", "ask", ask.masked(e))
	e.ok(err, "query past the proxy")
	e.keptAs(run, hidden, input)
}

// keptAs reads what was stored, as somebody with every key and as the server has it: masked members are in neither, the server can read those
// that no rule names, and only those.
func (e *env) keptAs(run client.WorkflowRun, hidden []string, input chart) {
	if e.proxy == nil {
		return
	}
	for who, c := range map[string]client.Client{"with every key": e.client, "at the server": e.direct} {
		a, err := c.WorkflowService().GetWorkflowExecutionHistory(e.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace,
			Execution: &commonpb.WorkflowExecution{WorkflowId: run.GetID(), RunId: run.GetRunID()}})
		e.ok(err, "history "+who)
		text := a.String()
		for _, h := range a.GetRawHistory() {
			text += string(h.GetData())
		}
		for _, secret := range hidden {
			if strings.Contains(text, secret) {
				e.Errorf("%s, a masked member is there: %s", who, secret)
			}
		}
		for _, readable := range []string{input.Ward, "bank"} {
			if !strings.Contains(text, readable) {
				e.Errorf("%s, %q is not readable", who, readable)
			}
		}
		if got := strings.Contains(text, input.Patient); got != (c == e.client) {
			e.Errorf("%s, the sealed member is readable: %v", who, got)
		}
	}
}
