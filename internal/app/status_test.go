package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/statuspage"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
)

// served is an admin listener of a proxy that serves.
func served(t *testing.T) *admin { return servedWith(t, nil) }

func servedWith(t *testing.T, store crypto.KeyStore) *admin {
	t.Helper()
	log, key := slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(key, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: log, Store: store, Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	engine, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte("package temporal\n\nrequest contains {\"action\": \"pass\"} if input.payload.name == \"trace\"\n"),
		KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAdmin("127.0.0.1:0", &telemetry{log: log, registry: prometheus.NewRegistry()}, func(string, handshake.Cause) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	changes := &applier{keys: keys, started: &config.Config{}, dependencies: newDependencies(&Ends{}, log)}
	changes.state.Store(&state{set: keys.Current(), policy: engine.Current()})
	table := traffic.New()
	table.Add("shop", "Order", rewrite.Outcomes{{Kind: "input", Outcome: rewrite.Sealed, N: 3}}, true)
	a.open(&serving{changes: changes, version: "1.2.3", begun: time.Now(), traffic: table, pollsHeld: func() int { return 2 },
		certificates: []certificate{{"listener", "people", func() time.Time { return time.Unix(2_000_000_000, 0) }}}})
	return a
}

// ask sends a request from this machine.
func (a *admin) ask(method, path, body string) *httptest.ResponseRecorder {
	r, w := httptest.NewRequest(method, path, strings.NewReader(body)), httptest.NewRecorder()
	r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost:7334"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a.server.Handler.ServeHTTP(w, r)
	return w
}

// TestStatusPages: people and programs read the same, also while the proxy drains.
func TestStatusPages(t *testing.T) {
	a := served(t)
	w := a.ask(http.MethodGet, "/", "")
	if text := w.Body.String(); w.Code != http.StatusOK || !strings.Contains(text, "2 polls held") || !strings.Contains(text, "3 / 3") ||
		w.Header().Get("Content-Security-Policy") == "" {
		t.Errorf("%d %v\n%s", w.Code, w.Header(), text)
	}
	status := func() (s statuspage.Status) {
		t.Helper()
		if w := a.ask(http.MethodGet, "/status", ""); w.Code != http.StatusOK || json.Unmarshal(w.Body.Bytes(), &s) != nil {
			t.Errorf("%d\n%s", w.Code, w.Body)
		}
		return s
	}
	if s := status(); s.Version != "1.2.3" || s.NotReady != "no upstream has answered yet" || len(s.Payloads) != 1 || len(s.Keys) != 1 ||
		s.Keys[0].State != statuspage.KeyWorks || s.Certificates[0].Expires.Unix() != 2_000_000_000 || s.Candidate != nil {
		t.Errorf("%+v", s)
	}
	a.shut()
	if s := status(); s.NotReady != "shutting down" {
		t.Errorf("%+v", s)
	}
	a.serving.Store(nil)
	for _, path := range []string{"/", "/status", "/explain", "/survey"} {
		if w := a.ask(http.MethodGet, path, ""); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s while starting: %d", path, w.Code)
		}
	}
}

// TestSurveyPage: the survey of live traffic is on the page and in two documents; without one, the endpoint says what to do.
func TestSurveyPage(t *testing.T) {
	a := served(t)
	if w := a.ask(http.MethodGet, "/survey", ""); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "set survey in the config") {
		t.Errorf("%d\n%s", w.Code, w.Body)
	}
	s := a.serving.Load()
	s.changes.started = &config.Config{Survey: &config.Survey{Rate: 7, CPUPercent: 5}, Metrics: config.Metrics{Namespaces: []string{"shop"}}}
	s.changes.sampler, s.changes.detector = rewrite.NewSampler(), new(detect.Detector)
	registry := prometheus.NewRegistry()
	s.survey = s.changes.observe(t.Context(), s.traffic, &telemetry{registry: registry})
	for _, path := range []string{"/", "/status", "/survey"} {
		if w := a.ask(http.MethodGet, path, ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "0 of 0 payloads in clear") && !strings.Contains(w.Body.String(), `"rate": 7`) {
			t.Errorf("%s: %d\n%s", path, w.Code, w.Body)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range families {
		series[f.GetName()] = len(f.GetMetric())
	}
	if series["temporal_seal_namespace_payloads_total"] != 2*len(rewrite.AllOutcomes) || series["temporal_seal_survey_payloads_seen_total"] != 1 ||
		series["temporal_seal_survey_payloads_searched_total"] != 1 || series["temporal_seal_survey_seconds_total"] != 1 {
		t.Errorf("%v", series)
	}
}

// TestSurveyDetector: rules of a file are read, and what is wrong with them is an error of the config.
func TestSurveyDetector(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte("rules: [{what: ward, names: [ward]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for rules, want := range map[string]bool{"": true, file: true, file + "x": false} {
		if d, err := SurveyDetector(&config.Config{Survey: &config.Survey{Rules: rules}}); (d != nil) != want || (err == nil) != want {
			t.Errorf("%q: %v, %v", rules, d, err)
		}
	}
	if d, err := SurveyDetector(&config.Config{}); d != nil || err != nil {
		t.Errorf("%v, %v", d, err)
	}
}

// TestExplainPage: the policy in force answers, and a form that cannot be read is refused.
func TestExplainPage(t *testing.T) {
	a := served(t)
	if w := a.ask(http.MethodGet, "/explain", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "StartWorkflowExecution") {
		t.Errorf("%d\n%s", w.Code, w.Body)
	}
	form := url.Values{"namespace": {"shop"}, "rpc": {"StartWorkflowExecution"}, "kind": {"header"}, "name": {"trace"}}
	if w := a.ask(http.MethodPost, "/explain", form.Encode()); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Verdict: pass") {
		t.Errorf("%d\n%s", w.Code, w.Body)
	}
	if w := a.ask(http.MethodPost, "/explain", "%zz"); w.Code != http.StatusBadRequest {
		t.Errorf("%d\n%s", w.Code, w.Body)
	}
}

// TestStoreNotice: the page says that the key store does not answer, and neither it nor /readyz names the database's user.
func TestStoreNotice(t *testing.T) {
	store, err := keystore.New("postgres://dba@127.0.0.1:1/seal?sslmode=disable&connect_timeout=1", strings.Repeat("0", 32))
	if err != nil {
		t.Fatal(err)
	}
	a := servedWith(t, store)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		page, ready := a.ask(http.MethodGet, "/", "").Body.String(), a.ask(http.MethodGet, "/readyz", "").Body.String()
		if strings.Contains(page+ready, "dba") {
			t.Fatalf("%s\n%s", page, ready)
		}
		if strings.Contains(page, "key store has not answered") && strings.Contains(ready, "key store has not answered") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not on the page, or not on /readyz:\n%s\n%s", page, ready)
		}
	}
}

// TestExplainsInTurn: decisions that are explained take no turn from probes.
func TestExplainsInTurn(t *testing.T) {
	a := served(t)
	for range explanations {
		a.explaining.places <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/explain", strings.NewReader("namespace=shop"))
	r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost:7334"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	if a.server.Handler.ServeHTTP(w, r); w.Code != http.StatusServiceUnavailable {
		t.Errorf("explained beyond the bound: %d %s", w.Code, w.Body)
	}
	if w := a.ask(http.MethodGet, "/readyz", ""); w.Body.Len() == 0 {
		t.Error("/readyz waits for explanations")
	}
}

// TestKeyNotices: keys that do not work are listed; those that have not answered yet are not listed a second time.
func TestKeyNotices(t *testing.T) {
	lines := keyNotices([]statuspage.Key{{Name: "a", State: statuspage.KeyWorks}, {Name: "b", KEK: "k1", State: statuspage.KeyRevoked},
		{Name: "c", KEK: "k2", State: statuspage.KeyUnavailable}, {Name: "d", KEK: keyNotOpen, State: statuspage.KeyRevoked}})
	if len(lines) != 2 || !strings.Contains(lines[0], `key "b"`) || !strings.Contains(lines[1], "gets no answer") {
		t.Errorf("%q", lines)
	}
}
