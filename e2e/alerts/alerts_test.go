package alerts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// healthyJob is the job of the proxy with healthy load.
const healthyJob = "healthy"

// rules are those of the repository.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
		}
	}
}

func rulesFile() string { return filepath.Join(harness.Root(), "deploy", "prometheus", "alerts.yaml") }

func readRules(t *testing.T) (text string, names []string) {
	t.Helper()
	b, err := os.ReadFile(rulesFile())
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	if err := yaml.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			names = append(names, rule.Alert)
		}
	}
	return string(b), names
}

var (
	holds  = regexp.MustCompile(`(?m)^( +for:) .*$`)
	window = regexp.MustCompile(`\[[0-9]+[mh]\]`)
)

// shortened is the text of the rules with times that a test can wait for.
func shortened(text string) string {
	return window.ReplaceAllString(holds.ReplaceAllString(text, "$1 2s"), "[15s]")
}

// healthyTime is how long the healthy load lasts.
func healthyTime() time.Duration {
	if testing.Short() {
		return time.Minute
	}
	return 5 * time.Minute
}

func TestAlerts(t *testing.T) {
	text, names := readRules(t)
	for _, name := range names {
		if !slices.ContainsFunc(states, func(s state) bool { return s.alert == name }) {
			t.Errorf("the alert %s has no state in states_test.go", name)
		}
	}
	sites := make([]*site, len(states))
	var starting sync.WaitGroup
	for i := range states {
		if !slices.Contains(names, states[i].alert) {
			t.Fatalf("states_test.go has a state for %s, which is no alert", states[i].alert)
		}
		sites[i] = newSite(t, states[i])
		starting.Go(sites[i].start)
	}
	healthy := newHealthy(t)
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	p := watch(t, shortened(text), append(sites, healthy.site))
	began := time.Now()
	var done sync.WaitGroup
	done.Go(func() { healthy.load(healthyTime()) })
	turns := make(chan struct{}, 4) // states at once: they wait more than they work
	var mu sync.Mutex
	held := 0
	for _, s := range sites {
		done.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if err := s.through(p); err != nil {
				s.failed.Store(true)
				t.Errorf("%s: %v", s.state.alert, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			held++
			t.Logf("%s fires in its state and stops after it", s.state.alert)
		})
	}
	done.Wait()
	onlyWhereExpected(t, p, time.Since(began))
	summary = fmt.Sprintf("alerts: %d, %d fire, stop and stay silent as described", len(names), held)
}

// watch starts the Prometheus: each site is a job.
func watch(t *testing.T, rules string, sites []*site) *harness.Prometheus {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "alerts.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n", file)
	for _, s := range sites {
		var targets []string
		for _, p := range s.proxies {
			targets = append(targets, fmt.Sprintf("%q", p.Admin))
		}
		fmt.Fprintf(&b, "  - job_name: %s\n    static_configs: [{targets: [%s], labels: {namespace: %s}}]\n",
			s.state.alert, strings.Join(targets, ", "), strings.ToLower(s.state.alert))
	}
	p, err := harness.StartPrometheus(t.Context(), dir, b.String())
	if errors.Is(err, harness.ErrNoPrometheus) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// onlyWhereExpected requires that no alert has fired for a job whose state is not its own.
func onlyWhereExpected(t *testing.T, p *harness.Prometheus, past time.Duration) {
	t.Helper()
	fired, err := p.Query(t.Context(), fmt.Sprintf(`count by (alertname, job) (max_over_time(ALERTS{alertstate="firing"}[%ds]))`,
		int(past.Seconds())+10))
	if err != nil {
		t.Fatal(err)
	}
	if len(fired) == 0 {
		t.Error("no alert has fired at all")
	}
	for _, f := range fired {
		alert, job := f.Metric["alertname"], f.Metric["job"]
		i := slices.IndexFunc(states, func(s state) bool { return s.alert == job })
		if i < 0 || job != alert && !slices.Contains(states[i].also, alert) {
			t.Errorf("the alert %s fired for the installation %q, in whose state it should be silent", alert, job)
		}
	}
}

// TestRulesAsTheyAre runs the rules with their own times.
func TestRulesAsTheyAre(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool on this machine; Debian has it in the package prometheus")
	}
	tests := filepath.Join(filepath.Dir(rulesFile()), "alerts_test.yaml")
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", tests).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	b, err := os.ReadFile(tests)
	if err != nil {
		t.Fatal(err)
	}
	_, names := readRules(t)
	for _, name := range names {
		// Where it is not named it has to be silent.
		if !strings.Contains(string(b), fmt.Sprintf("alertname=%q", name)) {
			t.Errorf("no test of alerts_test.yaml has %s fire", name)
		}
	}
}

// TestQuotedMessages: what a document quotes of the log exists.
func TestQuotedMessages(t *testing.T) {
	quoted, missing, err := harness.QuotedMessages()
	if err != nil {
		t.Fatal(err)
	}
	if len(quoted) < 20 {
		t.Errorf("only %d quoted messages were found in the documents", len(quoted))
	}
	for _, m := range missing {
		t.Error(m)
	}
}
