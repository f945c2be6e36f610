package operator

import (
	"strings"
	"testing"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// TestKit runs a workflow through a proxy with what scenarios use: without it, a scenario might hold since nothing happened.
func TestKit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve(`
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`)
	c := s.client(p.address, "orders")
	s.work(c, func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(func(_ workflow.Context, text string) (string, error) {
			return text + " and back", nil
		}, workflow.RegisterOptions{Name: "Echo"})
	})
	var got string
	s.ok(s.start(c, "", "Echo", "there").Get(s.Context(), &got))
	s.want(got == "there and back", "the workflow returned %q", got)
	sealed, found := p.metric("temporal_seal_payloads_total", "action", "sealed")
	s.want(found && sealed >= 2, "%v payloads were sealed, found %v", sealed, found)
	s.want(p.logged("serving") == 1, "the log has no line `serving`")
	if code, body := p.get("/readyz"); code != 200 {
		s.Errorf("/readyz: %d %s", code, body)
	}
	keys := s.run("keys", "list", "--config", p.config)
	s.want(keys.code == 0 && strings.Contains(keys.stdout, "default"), "keys list: %+v", keys)
}
