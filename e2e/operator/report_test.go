package operator

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// onlyVariable runs the scenarios alone of one point ("4") or of one sentence ("4.3").
const onlyVariable = "SEAL_OPERATOR_ONLY"

func TestMain(m *testing.M) {
	flag.Parse()
	// Scenarios wait more than they work.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("6")
	}
	code := m.Run()
	stopTemporal()
	harness.RemoveProxy()
	if !report() {
		code = max(code, 1)
	}
	os.Exit(code)
}

// outcome is what became of one scenario.
type outcome struct {
	id, name string
	result   string // "holds", "FAILS", "left out"
}

var (
	outcomesMu sync.Mutex
	outcomes   []outcome
)

// scenario runs what shows a sentence, beside other scenarios.
func scenario(t *testing.T, id, name string, run func(s *site)) {
	t.Helper()
	register(t, id, name, run, false)
}

// longScenario is a scenario that the short form of the suite leaves out.
func longScenario(t *testing.T, id, name string, run func(s *site)) {
	t.Helper()
	register(t, id, name, run, true)
}

func register(t *testing.T, id, name string, run func(s *site), long bool) {
	t.Helper()
	if !slices.ContainsFunc(sentences, func(s sentence) bool { return s.id == id }) {
		t.Fatalf("scenario %q: no sentence has the id %s", name, id)
	}
	if only := os.Getenv(onlyVariable); only != "" && id != only && !strings.HasPrefix(id, only+".") {
		return
	}
	t.Run(id+" "+name, func(t *testing.T) {
		t.Cleanup(func() {
			o := outcome{id, name, "holds"}
			if t.Failed() {
				o.result = "FAILS"
			} else if t.Skipped() {
				o.result = "left out"
			}
			outcomesMu.Lock()
			defer outcomesMu.Unlock()
			outcomes = append(outcomes, o)
		})
		if long && testing.Short() {
			t.SkipNow()
		}
		t.Parallel()
		run(newSite(t))
	})
}

// report prints a line for each sentence and its scenarios. It reports whether the suite is complete enough to pass; failed
// scenarios have failed their tests already.
func report() bool {
	if f := flag.Lookup("test.list"); f != nil && f.Value.String() != "" {
		return true
	}
	part := os.Getenv(onlyVariable) != "" || flag.Lookup("test.run").Value.String() != ""
	open, held := 0, 0
	for _, s := range sentences {
		var names []string
		fails := false
		for _, o := range outcomes {
			if o.id != s.id {
				continue
			}
			name := o.name
			if o.result != "holds" {
				name += " (" + o.result + ")"
			}
			names, fails = append(names, name), fails || o.result == "FAILS"
		}
		state := "holds"
		switch {
		case len(names) == 0 && part:
			continue
		case len(names) == 0:
			state, names = "OPEN ", []string{"no scenario"}
			open++
		case fails:
			state = "FAILS"
		default:
			held++
		}
		slices.Sort(names)
		fmt.Printf("operator sentence %-5s %s  %s: %s\n", s.id, state, s.text, strings.Join(names, "; "))
	}
	if open > 0 {
		fmt.Printf("open: %d sentences\n", open)
	}
	fmt.Printf("operator: %d sentences, %d scenarios, %d hold\n", len(sentences), len(outcomes), held)
	return open == 0
}
