package app

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// TestCandidateFollowsItsFile: a candidate that does not load is shown as such, and the one before it stays on trial.
func TestCandidateFollowsItsFile(t *testing.T) {
	dir := t.TempDir()
	file, key := filepath.Join(dir, "candidate.rego"), filepath.Join(dir, "seal.key")
	if err := localkey.Create(key, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: slog.New(slog.DiscardHandler),
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	var log bytes.Buffer
	telemetry := &telemetry{log: slog.New(slog.NewTextHandler(&log, nil)), registry: prometheus.NewRegistry()}
	c := &config.Config{Policy: config.Policy{Candidate: &config.Candidate{File: file}}}
	step := func(n *candidate, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("package temporal\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n != nil {
			n.load(t.Context())
		}
	}
	step(nil, "request contains {")
	n := newCandidate(t.Context(), c, keys, telemetry)
	var ready strings.Builder
	n.describe(&ready)
	if n.trial.Active() || !strings.Contains(ready.String(), "its files do not load: policy: "+file+":") {
		t.Errorf("a candidate that does not compile: %s", &ready)
	}
	if values := gathered(t, telemetry.registry); values["temporal_seal_policy_candidate_stale"] != 1 || values["temporal_seal_policy_candidate_info"] != 0 {
		t.Errorf("%v", values)
	}
	n.load(t.Context()) // the same error is logged once
	step(n, `response contains {"action": "open"}`)
	if n.stale() != nil || !n.trial.Active() {
		t.Errorf("a corrected candidate: %v", n.stale())
	}
	first := n.trial.Candidate()
	step(n, "nonsense")
	if n.stale() == nil || n.trial.Candidate() != first {
		t.Errorf("a candidate that is broken again: %v", n.stale())
	}
	ready.Reset()
	n.describe(&ready)
	for _, want := range []string{"candidate policy: revision " + first.Revision() + " is compared", "candidate policy: its files do not load: "} {
		if !strings.Contains(ready.String(), want) {
			t.Errorf("/readyz does not say %q: %s", want, &ready)
		}
	}
	for message, want := range map[string]int{"the candidate policy does not load; calls go on": 2, "is compared with the policy in force": 1} {
		if got := strings.Count(log.String(), message); got != want {
			t.Errorf("%q is logged %d times, want %d:\n%s", message, got, want, &log)
		}
	}
	n.differs(&policy.Difference{Kind: "memo", Namespace: "n", From: policy.Decision{Action: "seal"}, To: policy.Decision{Action: "pass"}})
	n.differs(&policy.Difference{Kind: "memo", Namespace: "n", From: policy.Decision{Action: "seal"}, To: policy.Decision{Action: "pass"}})
	if got := gathered(t, telemetry.registry)["temporal_seal_policy_candidate_differences_total"]; got != 2 || strings.Count(log.String(), "decides otherwise") != 1 {
		t.Errorf("%v counted:\n%s", got, &log)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	n.follow(ended)
}

// gathered adds up the series of each metric.
func gathered(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			sums[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sums
}

// TestNamesAreForThisMachine: names of workflows go to callers on loopback alone, and not to pages of sites whose name leads
// here.
func TestNamesAreForThisMachine(t *testing.T) {
	a := &admin{making: newTurns(texts, textRest)}
	list := onLoopback(a.making.answer(a.compared))
	for _, c := range []struct {
		from, host string
		want       int
	}{
		{"127.0.0.1:5", "localhost:7334", 404}, {"[::1]:5", "[::1]:7334", 404}, {"[::1]:5", "[::1]", 404}, {"127.0.0.1:5", "127.0.0.1", 404},
		{"10.0.0.7:5", "localhost:7334", 403}, {"", "localhost", 403},
		{"127.0.0.1:5", "evil.example.com", 403}, {"127.0.0.1:5", "evil.example.com:7334", 403}, {"127.0.0.1:5", "", 403},
	} {
		r, w := httptest.NewRequest(http.MethodGet, "/candidate", nil), httptest.NewRecorder()
		r.RemoteAddr, r.Host = c.from, c.host
		if list(w, r); w.Code != c.want {
			t.Errorf("a caller at %q who asks for %q gets %d, want %d", c.from, c.host, w.Code, c.want)
		}
	}
}
