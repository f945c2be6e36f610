package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// trialOf returns a Trial of a candidate, and the policy in force.
func trialOf(t *testing.T, inForce, candidate string, report func(*Difference)) (*Trial, *Policy) {
	t.Helper()
	load := func(text string) *Policy {
		p, err := Load(t.Context(), Options{Shipped: []byte("package temporal\n" + text)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if report == nil {
		report = func(*Difference) {}
	}
	trial := NewTrial(report)
	trial.Try(load(candidate))
	return trial, load(inForce)
}

// compare decides by the policy in force, and has the candidate compared.
func compare(t *testing.T, trial *Trial, inForce *Policy, d Direction, in *Input) {
	t.Helper()
	v, err := inForce.Decide(t.Context(), d, in)
	trial.Compare(t.Context(), inForce, d, in, v, err)
}

// counts are the outcomes of a trial: same, different, too slow, left out.
func (t *Trial) outcomes() [numCompared]uint64 {
	var n [numCompared]uint64
	for _, c := range ComparedOutcomes {
		n[c] = t.Counted(c)
	}
	return n
}

func TestTrialFindsDifferences(t *testing.T) {
	var reported []Difference
	trial, inForce := trialOf(t, `request contains {"action": "pass"} if input.payload.kind == "memo"
request contains {"action": "seal", "fields": ["/a"]} if input.payload.kind == "update"
response contains {"action": "open"}`, `request contains {"action": "deny", "reason": "words"} if input.payload.kind == "memo"
request contains {"action": "seal", "key": "k"} if input.payload.kind == "input"
request contains {"action": "seal", "key": input.content.json.secret} if input.payload.kind == "result"
response contains {"action": "open"}`, func(d *Difference) { reported = append(reported, *d) })
	all := AllFacts
	input := func(kind string) *Input {
		return &Input{Namespace: "n", RPC: "R", Kind: kind, WorkflowType: "W", Known: all, Encoding: "json/plain", Data: []byte(`{"secret":"CANARY"}`)}
	}
	for _, kind := range []string{"memo", "input", "result", "update", "signal"} {
		compare(t, trial, inForce, Request, input(kind))
	}
	compare(t, trial, inForce, Response, input("memo"))
	compare(t, trial, inForce, Request, input("memo")) // both from the cache
	if got, want := trial.outcomes(), ([numCompared]uint64{2, 5, 0, 0}); got != want {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	got := map[string]string{}
	for _, d := range trial.Differences(inForce) {
		got[d.Kind] = fmt.Sprintf("%d: %v %v -> %v %v", d.Count, d.From, d.From.Rules, d.To, d.To.Rules)
		if d.Direction != "request" || d.Method != "R" || d.Namespace != "n" || d.WorkflowType != "W" || d.First.IsZero() {
			t.Errorf("%+v", d)
		}
		if d.Kind != "result" && strings.Contains(fmt.Sprint(d), "CANARY") {
			t.Errorf("a value stands in %+v", d)
		}
	}
	file := "policy.rego (shipped)"
	for kind, want := range map[string]string{
		"memo":   "2: pass [" + file + ":2] -> deny [" + file + ":2]",
		"input":  "1: seal with key default [] -> seal with key k [" + file + ":3]",
		"update": "1: seal with key default, in parts [" + file + ":3] -> seal with key default []",
	} {
		if got[kind] != want {
			t.Errorf("%s: %s, want %s", kind, got[kind], want)
		}
	}
	if len(reported) != 5 {
		t.Errorf("%d are reported", len(reported))
	}
	other, _ := Load(t.Context(), Options{Shipped: []byte("package temporal\nresponse contains {\"action\": \"keep\"}")})
	if n := len(trial.Differences(other)); n != 0 {
		t.Errorf("%d differences from another policy", n)
	}
}

// TestTrialComparesErrors: a candidate that fails differs from a policy that decides, and not from one that fails too.
func TestTrialComparesErrors(t *testing.T) {
	trial, inForce := trialOf(t, `request contains {"action": "pass"}`, `request contains {"action": "seal", "key": "missing"}`, nil)
	bad, err := Load(t.Context(), Options{Shipped: []byte(`package temporal
request contains {"action": "seal", "key": "missing"}`), KeyRank: func(string, string) (int, bool) { return 0, false }})
	if err != nil {
		t.Fatal(err)
	}
	trial.Try(bad)
	in := &Input{Namespace: "n", RPC: "R", Kind: "memo", Known: AllFacts}
	compare(t, trial, inForce, Request, in)
	trial.Compare(t.Context(), inForce, Request, in, Verdict{}, errors.New("it fails"))
	trial.Compare(t.Context(), inForce, Request, in, Verdict{}, ErrTooMany) // says nothing about the rules
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	trial.Compare(ended, inForce, Request, in, Verdict{Action: Pass}, nil)
	if got, want := trial.outcomes(), ([numCompared]uint64{1, 1, 0, 0}); got != want {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	if d := trial.Differences(inForce); len(d) != 1 || d[0].To.Action != "error" || d[0].From.Action != "pass" {
		t.Errorf("%+v", d)
	}
}

// TestTrialIsBounded: evaluations of a candidate take no more than their share, and one runs at a time.
func TestTrialIsBounded(t *testing.T) {
	trial, inForce := trialOf(t, `request contains {"action": "pass"}`, `request contains {"action": "pass"} if input.payload.name == "x"`, nil)
	compareName := func(name string) {
		compare(t, trial, inForce, Request, &Input{Namespace: "n", RPC: "R", Kind: "memo", Name: name, Known: AllFacts})
	}
	trial.evaluating.Lock()
	compareName("a")
	trial.evaluating.Unlock()
	trial.saved = -time.Hour
	compareName("b")
	if got, want := trial.outcomes(), ([numCompared]uint64{0, 0, 0, 2}); got != want {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	trial.saved, trial.since = -time.Second, time.Now().Add(-time.Minute) // it has waited long enough
	compareName("c")
	if n := trial.Counted(ComparedDifferent); n != 1 || trial.saved > trialTime(trialSaved) {
		t.Errorf("%d differ, %v saved", n, trial.saved)
	}
	if n := inForce.cache; n == nil {
		t.Error("the policy in force has no cache")
	}
}

// TestTrialOfSlowCandidates: an evaluation that takes too long ends, and its outcome is not known.
func TestTrialOfSlowCandidates(t *testing.T) {
	trial, inForce := trialOf(t, `request contains {"action": "pass"}`, `request contains {"action": "pass"} if {
	input.payload.name == "slow"
	every i in numbers.range(1, 100000000) { i > 0 }
}`, nil)
	began := time.Now()
	compare(t, trial, inForce, Request, &Input{Namespace: "n", RPC: "R", Kind: "memo", Name: "slow", Known: AllFacts})
	if got, want := trial.outcomes(), ([numCompared]uint64{0, 0, 1, 0}); got != want {
		t.Errorf("after %v, outcomes %v, want %v", time.Since(began), got, want)
	}
	if trial.saved >= trialTime(trialSaved)-trialTimeout/2 {
		t.Errorf("%v are saved: the evaluation was not counted", trial.saved)
	}
}

// TestTrialListIsBounded: what callers choose fills neither the list nor an entry of it.
func TestTrialListIsBounded(t *testing.T) {
	trial, inForce := trialOf(t, `request contains {"action": "pass"}`, `request contains {"action": "deny"}`, nil)
	var all sync.WaitGroup
	for i := range 2 * maxListed {
		all.Go(func() {
			trial.Compare(context.Background(), inForce, Request, &Input{Namespace: "n", RPC: "R", Kind: "memo", Known: AllFacts,
				WorkflowType: strings.Repeat("w", 10_000) + fmt.Sprint(i), ActivityType: fmt.Sprint(i)}, Verdict{Action: Pass}, nil)
		})
	}
	all.Wait()
	listed := trial.Differences(inForce)
	if len(listed) == 0 || len(listed) > maxListed {
		t.Errorf("%d are listed", len(listed))
	}
	for _, d := range listed {
		if len(d.WorkflowType) > maxListedText+3 {
			t.Fatalf("a text of %d bytes", len(d.WorkflowType))
		}
	}
}

func TestTrialReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "candidate.rego")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("package temporal\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trial, o := NewTrial(nil), Options{File: file}
	if trial.Active() || (*Trial)(nil).Active() {
		t.Error("there is a candidate before it is loaded")
	}
	write("request contains {")
	last, tried, err := trial.Reload(t.Context(), o, "", false)
	if !tried || err == nil || trial.Active() {
		t.Errorf("a candidate that does not compile: %v, %v", tried, err)
	}
	write(`response contains {"action": "open"}`)
	last, tried, err = trial.Reload(t.Context(), o, last, false)
	if !tried || err != nil || trial.Candidate().Revision() != last {
		t.Errorf("a corrected candidate: %v, %v", tried, err)
	}
	if _, tried, err = trial.Reload(t.Context(), o, last, false); tried || err != nil {
		t.Errorf("the same candidate: %v, %v", tried, err)
	}
	if _, tried, err = trial.Reload(t.Context(), o, last, true); !tried || err != nil {
		t.Errorf("the same candidate for other keys: %v, %v", tried, err)
	}
	good := trial.Candidate()
	write("nonsense")
	if _, _, err = trial.Reload(t.Context(), o, last, false); err == nil || trial.Candidate() != good {
		t.Errorf("a candidate that does not compile any more: %v", err)
	}
}
