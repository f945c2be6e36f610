package rescue

import (
	"context"
	"strings"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

var asked = []scenario{
	{"query", outage, true, "", queryHeld},
	{"query", long, true, "", queryLong},
	{"query", never, false, "", queryNever},
	{"query in a workflow task", outage, true, "", queryInTaskHeld},
	{"query in a workflow task", never, false, "", queryInTaskNever},
}

func (s *site) query(c client.Client, arg any) (got string, err error) {
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	defer cancel()
	v, err := c.QueryWorkflow(ctx, s.id, "", "q", arg)
	if err == nil {
		err = v.Get(&got)
	}
	return got, err
}

func queryHeld(s *site) string {
	cold := s.cold()
	s.work(cold, s.queue, register("Asking", asking))
	s.start(cold, "Asking")
	s.idle()
	s.outage(2 * time.Second)
	got, err := s.query(s.client, "asked")
	s.want(err == nil && got == "asked", "the query gave %q, %v", got, err)
	return "the task was held; the caller gets the answer"
}

func queryLong(s *site) string {
	cold := s.cold()
	s.work(cold, s.queue, register("Asking", asking))
	run := s.start(cold, "Asking")
	s.idle()
	s.kms.Always("", kmsstub.Fault{Reset: true})
	_, err := s.query(s.client, "asked")
	s.want(err != nil && strings.Contains(err.Error(), "temporal-seal: the worker was not given this task") && strings.Contains(err.Error(), "ask again"), "the query: %v", err)
	s.kms.Heal()
	s.end(run)
	return "the caller's query fails with the reason, after it was held; the workflow goes on"
}

func queryNever(s *site) string {
	s.work(s.client, s.queue, register("Asking", asking))
	run := s.start(s.client, "Asking")
	s.idle()
	_, err := s.query(s.direct, s.bad())
	s.want(err != nil && strings.Contains(err.Error(), "temporal-seal: the worker was not given this task"), "the query: %v", err)
	s.end(run)
	return "the caller's query fails at once, with the reason; the workflow goes on"
}

// twoSignals returns the second of two signals.
func twoSignals(ctx workflow.Context) (string, error) {
	if err := workflow.SetQueryHandler(ctx, "q", func(in string) (string, error) { return in, nil }); err != nil {
		return "", err
	}
	var end string
	for range 2 {
		workflow.GetSignalChannel(ctx, "end").Receive(ctx, &end)
	}
	return end, nil
}

// queryInTask asks a workflow whose worker is away while a workflow task waits for it: the query comes with that task.
func (s *site) queryInTask(workerSide, caller client.Client, arg any, back func()) (string, error) {
	s.sticky = time.Second // the server gives a query 10 s
	w := s.work(workerSide, s.queue, register("Two", twoSignals))
	run := s.start(workerSide, "Two")
	s.idle()
	w.Stop()
	s.ok(workerSide.SignalWorkflow(s.Context(), s.id, "", "end", "first"))
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := s.query(caller, arg)
		done <- answer{text, err}
	}()
	time.Sleep(500 * time.Millisecond)
	back()
	s.work(workerSide, s.queue, register("Two", twoSignals))
	a := <-done
	s.end(run)
	s.want(s.failedTasks() == 0, "%d failed workflow tasks", s.failedTasks())
	return a.text, a.err
}

func queryInTaskHeld(s *site) string {
	cold := s.cold()
	got, err := s.queryInTask(cold, s.client, "asked", func() { s.outage(2 * time.Second) })
	s.want(err == nil && got == "asked", "the query gave %q, %v", got, err)
	return "the task was held; the caller gets the answer"
}

func queryInTaskNever(s *site) string {
	_, err := s.queryInTask(s.client, s.direct, s.bad(), func() {})
	s.want(err != nil && strings.Contains(err.Error(), "temporal-seal: the worker was not given this task"), "the query: %v", err)
	taken := false
	for _, line := range s.proxy.Log.Lines() {
		taken = taken || line["workflow_id"] == s.id && line["queries"] == 1.0
	}
	s.want(taken, "the query did not come with a workflow task")
	return "the workflow task goes on without it; the server hands the query out again, by itself, and the caller's query fails with the reason"
}
