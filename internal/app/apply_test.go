package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// changing is an applier over files in a folder.
type changing struct {
	*testing.T
	*applier
	dir     string
	log     bytes.Buffer
	metrics *prometheus.Registry
}

func newChanging(t *testing.T, configText string, files map[string]string) *changing {
	t.Helper()
	c := &changing{T: t, dir: t.TempDir()}
	for _, key := range []string{"default.key", "phi.key"} {
		if err := localkey.Create(filepath.Join(c.dir, key), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	c.write("config.yaml", configText)
	if err := os.Mkdir(filepath.Join(c.dir, "spaces"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		c.write(name, text)
	}
	flags := config.Flags{File: filepath.Join(c.dir, "config.yaml")}
	text, err := flags.Read()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := flags.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	log, registry := slog.New(slog.NewTextHandler(&c.log, nil)), prometheus.NewRegistry()
	c.metrics = registry
	c.applier = &applier{flags: flags, started: parsed, timeout: 5 * time.Second, text: text}
	t.Cleanup(func() { c.close() })
	if err := c.open(t.Context(), &telemetry{log: log, registry: registry}, &waits{t.Context(), log}, new(admin), false); err != nil {
		t.Fatal(err)
	}
	return c
}

// write writes a file; DIR in its text stands for the folder.
func (c *changing) write(name, text string) {
	c.Helper()
	text = strings.ReplaceAll(text, "DIR", c.dir)
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

func (c *changing) action() policy.Action {
	c.Helper()
	v, err := c.state.Load().policy.Decide(context.Background(), policy.Request, &policy.Input{Namespace: "team", Kind: policy.KindInput})
	if err != nil {
		c.Fatal(err)
	}
	return v.Action
}

// count is what a counter shows for an outcome.
func (c *changing) count(name, outcome string) float64 {
	c.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		c.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == outcome {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

func (c *changing) page() string {
	var b strings.Builder
	c.state.Load().describe(&b, "config.yaml")
	return b.String()
}

const oneKey = "keys:\n  - {name: default, active: \"local:DIR/default.key\"}\npolicy: {file: \"DIR/policy.rego\"}\n"

// A policy that does not load never replaces one that does, and is reported once, however often it is tried.
func TestBadPoliciesAreReportedOnce(t *testing.T) {
	const passing = "package temporal\n\nrequest contains {\"action\": \"pass\"}\n"
	c := newChanging(t, oneKey, map[string]string{"policy.rego": passing})
	before := c.state.Load().policy.Revision()
	for name, text := range map[string]string{
		"does not compile": "package temporal\n\nrequest contains {\n",
		"fails a dry run":  "package temporal\n\nrequest contains {\"action\": \"encrypt\"}\n",
	} {
		c.write("policy.rego", text)
		for range 2 {
			c.apply(t.Context(), false)
		}
		if now := c.state.Load().policy; now.Revision() != before || now.Err() == nil || c.action() != policy.Pass {
			t.Errorf("%s: revision %s, error %v", name, now.Revision(), now.Err())
		}
		if !strings.Contains(c.page(), "revision "+before+" stays in force: policy: ") {
			t.Errorf("%s: /readyz says %s", name, c.page())
		}
	}
	if n := strings.Count(c.log.String(), "the old one stays in force"); n != 2 {
		t.Errorf("two bad policies were logged %d times:\n%s", n, &c.log)
	}
	if n := c.count("temporal_seal_policy_reloads_total", "error"); n != 2 {
		t.Errorf("two bad policies were counted %v times", n)
	}
	c.write("policy.rego", passing)
	c.apply(t.Context(), false)
	if now := c.state.Load().policy; now.Revision() != before || now.Err() != nil || strings.Contains(c.page(), "stays in force") {
		t.Errorf("the good policy back again: %v, /readyz says %s", now.Err(), c.page())
	}
	if n := c.count("temporal_seal_policy_reloads_total", "ok"); n != 1 {
		t.Errorf("the policy put back was counted %v times", n)
	}
}

// A refused config leaves the state as it was, its revoked data keys apart, and is refused once.
func TestARefusedConfigLeavesTheState(t *testing.T) {
	c := newChanging(t, oneKey, map[string]string{"policy.rego": "package temporal\n"})
	before := c.state.Load()
	for i := range 3 {
		c.write("config.yaml", oneKey+"grants: [{from: a, to: b}]\nunheard_of: true\n")
		c.apply(t.Context(), false)
		now := c.state.Load()
		if !now.refused || len(now.grants) != 0 || len(now.keys) != 1 || fmt.Sprint(now.keys) != fmt.Sprint(before.keys) {
			t.Errorf("after try %d: %+v", i, now.configured)
		}
	}
	if n := c.count("temporal_seal_config_reloads_total", "error"); n != 1 {
		t.Errorf("one refused config was counted %v times", n)
	}
	c.write("config.yaml", oneKey+"grants: [{from: a, to: b}]\n")
	c.apply(t.Context(), false)
	if now := c.state.Load(); now.refused || len(now.problems) != 0 || len(now.grants) != 1 {
		t.Errorf("the config without a mistake: %+v", now)
	}
}

// A key that a policy names keeps its rank among those that are left.
func TestAKeptKeyKeepsItsRank(t *testing.T) {
	const team = "package temporal.namespaces.team\n\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"}\n"
	const phi = "  - {name: phi, active: \"local:DIR/phi.key\"}\n"
	rest := strings.TrimPrefix(strings.Replace(oneKey, "rego\"}", "rego\", namespaces: \"DIR/spaces\"}", 1), "keys:\n")
	c := newChanging(t, "keys:\n"+phi+rest, map[string]string{"policy.rego": "package temporal\n", "spaces/team.rego": team})
	c.write("config.yaml", "keys:\n"+rest)
	c.apply(t.Context(), false)
	now := c.state.Load()
	if rank, ok := now.set.Rank("team", "phi"); !ok || rank != 0 || len(now.problems) != 1 || !strings.Contains(c.page(), "team.rego:3") {
		t.Errorf("rank %d, %v; /readyz says %s", rank, ok, c.page())
	}
	if _, ok := now.set.Rank("other", "phi"); ok {
		t.Error("the key is still there for other namespaces")
	}
}

// A config file that is away is reported once, and not at every look.
func TestAMissingConfigIsCountedOnce(t *testing.T) {
	c := newChanging(t, oneKey, map[string]string{"policy.rego": "package temporal\n"})
	if err := os.Remove(filepath.Join(c.dir, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	c.awaySince = time.Now().Add(-time.Minute)
	for range 3 {
		c.apply(t.Context(), false)
	}
	if n := c.count("temporal_seal_config_reloads_total", "error"); n != 1 {
		t.Errorf("a missing config was counted %v times:\n%s", n, &c.log)
	}
	c.apply(t.Context(), true)
	if n := c.count("temporal_seal_config_reloads_total", "error"); n != 2 {
		t.Errorf("with a SIGHUP a missing config was counted %v times", n)
	}
	c.write("config.yaml", oneKey)
	c.apply(t.Context(), false)
	if n := c.count("temporal_seal_config_reloads_total", "ok"); n != 1 || len(c.state.Load().problems) != 0 {
		t.Errorf("the config put back was counted %v times: %v", n, c.state.Load().problems)
	}
}

// A new key that does not answer is counted once, although each try has another request id, and again when
// the reason changes.
func TestAFailingKeyIsCountedOnce(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	var status, requests atomic.Int64
	status.Store(http.StatusServiceUnavailable)
	kms := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amzn-Requestid", fmt.Sprintf("8c3b1f0a-0000-4000-8000-%012d", requests.Add(1)))
		http.Error(w, "no JSON", int(status.Load()))
	}))
	defer kms.Close()
	c := newChanging(t, oneKey, map[string]string{"policy.rego": "package temporal\n"})
	c.timeout = time.Second
	c.write("config.yaml", "keys:\n  - {name: new, active: \"awskms://alias/x?region=eu-central-1&endpoint="+kms.URL+"\"}\n"+
		strings.TrimPrefix(oneKey, "keys:\n"))
	for range 3 {
		c.apply(t.Context(), false)
	}
	if n := c.count("temporal_seal_config_reloads_total", "error"); n != 1 || requests.Load() < 3 {
		t.Errorf("after %d requests a key that does not answer was counted %v times:\n%s", requests.Load(), n, &c.log)
	}
	status.Store(http.StatusForbidden)
	for range 20 { // the key is asked again after a while only
		if c.apply(t.Context(), false); c.count("temporal_seal_config_reloads_total", "error") > 1 {
			break
		}
	}
	if n := c.count("temporal_seal_config_reloads_total", "error"); n != 2 {
		t.Errorf("with another reason a key that does not answer was counted %v times:\n%s", n, &c.log)
	}
}
