package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// shadowed is the config of a proxy that has sealed, and is then put into shadow mode.
const shadowed = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`

func TestShadow(t *testing.T) {
	t.Parallel()
	scenario(t, "1.1", "a workflow that began sealed goes on, and clients read its history", shadowOpens)
	scenario(t, "1.2", "signals and results in shadow mode are stored in clear", shadowSealsNothing)
	scenario(t, "1.3", "payloads in shadow mode count as passed_shadow", shadowMetrics)
	scenario(t, "1.7", "the gauge, /readyz and the log", shadowShows)
}

// waitForSignal returns its input and the text of a signal.
func waitForSignal(ctx workflow.Context, in string) (string, error) {
	var text string
	workflow.GetSignalChannel(ctx, "go").Receive(ctx, &text)
	return in + " " + text, nil
}

// startsSealed starts a workflow whose first task a sealing proxy handed out, and then returns a proxy in shadow mode.
func startsSealed(s *site) (p *proxy, run client.WorkflowRun) {
	s.Helper()
	before := s.serve(shadowed)
	w := worker.New(s.client(before.address, "default"), s.name, worker.Options{})
	w.RegisterWorkflowWithOptions(waitForSignal, workflow.RegisterOptions{Name: "WaitForSignal"})
	s.ok(w.Start())
	run = s.start(s.client(before.address, "default"), "", "WaitForSignal", "CANARY-BEFORE")
	s.eventually(func() error {
		if n := len(s.history(before.address, "default", run.GetID())); n < 4 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	w.Stop()
	return s.serve(shadowed + "shadow: true\n"), run
}

// finishes has the workflow, which got this input, go on and end by a proxy.
func finishes(s *site, p *proxy, run client.WorkflowRun, in string) {
	s.Helper()
	c := s.client(p.address, "default")
	s.work(c, func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(waitForSignal, workflow.RegisterOptions{Name: "WaitForSignal"})
	})
	s.ok(c.SignalWorkflow(s.Context(), run.GetID(), "", "go", "CANARY-SHADOW"))
	var out string
	s.ok(c.GetWorkflow(s.Context(), run.GetID(), "").Get(s.Context(), &out))
	s.want(out == in+" CANARY-SHADOW", "the workflow returned %q", out)
}

func shadowOpens(s *site) {
	p, run := startsSealed(s)
	s.contains("the history by the proxy in shadow mode", fmt.Sprint(s.history(p.address, "default", run.GetID())), "CANARY-BEFORE")
	finishes(s, p, run, "CANARY-BEFORE")
	if n, _ := p.metric("temporal_seal_payloads_total", "action", "opened"); n == 0 {
		s.Error("no payload counts as opened")
	}
}

func shadowSealsNothing(s *site) {
	p, run := startsSealed(s)
	finishes(s, p, run, "CANARY-BEFORE")
	stored := fmt.Sprint(s.history(s.expand("${temporal}"), "default", run.GetID()))
	s.contains("the history at the server", stored, `"CANARY-SHADOW\"`, `"CANARY-BEFORE CANARY-SHADOW\"`)
	s.want(strings.Count(stored, "CANARY-BEFORE") == 1, "the input is stored in clear:\n%s", stored)
}

func shadowMetrics(s *site) {
	p, run := startsSealed(s)
	finishes(s, p, run, "CANARY-BEFORE")
	for metric, labels := range map[string][]string{
		"temporal_seal_payloads_total": {"action", "sealed"}, "temporal_seal_payload_bytes_total": {"action", "sealed"},
		"temporal_seal_key_payloads_total": {"action", "sealed"},
	} {
		if n, _ := p.metric(metric, labels...); n != 0 {
			s.Errorf("%s counts %v as sealed", metric, n)
		}
	}
	if n, _ := p.metric("temporal_seal_payloads_total", "action", "passed_shadow"); n < 2 {
		s.Errorf("%v payloads count as passed in shadow mode", n)
	}
}

func shadowShows(s *site) {
	plain := s.serve(shadowed)
	n, found := plain.metric("temporal_seal_shadow")
	s.want(found && n == 0, "temporal_seal_shadow is %v, %v", n, found)
	_, ready := plain.get("/readyz")
	s.lacks("/readyz", ready, "shadow")
	p := s.serve(shadowed + "shadow: true\n")
	n, _ = p.metric("temporal_seal_shadow")
	s.want(n == 1, "temporal_seal_shadow is %v in shadow mode", n)
	code, ready := p.get("/readyz")
	s.want(code == 200, "/readyz answers %d", code)
	s.contains("/readyz", ready, "shadow: nothing new is sealed")
	p.awaitLog("SHADOW MODE: nothing new is sealed, payloads pass in clear and the policy's verdicts are counted")
	s.within(time.Second, func() error {
		if _, found := p.metric("temporal_seal_payloads_total", "action", "passed_shadow"); !found {
			return fmt.Errorf("no series for payloads that pass in shadow mode")
		}
		return nil
	})
}
