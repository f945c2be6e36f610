package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// prediction is what the policy says of one payload of the story, before the story happens.
type prediction struct {
	payload string // as in payloads.yaml: the event's subject and the place within it
	verdict string // as stored has it
	rule    string // file:line of what decided
}

// explained is the part of `temporal-seal explain -o json` that is shown.
type explained struct {
	Name, Action, Key, Error string
	Packages                 []struct {
		Rules []struct {
			Location string
			Verdicts []string
		}
	}
}

// explain asks the proxy's policy about the story's payloads, by `temporal-seal explain`, and shows the verdicts.
func (st *stage) explain(ctx context.Context) error {
	config, err := harness.WriteConfig(st.options)
	if err != nil {
		return err
	}
	var answers []explained
	err = st.command(ctx, &answers, "", "explain", "--config", config, "-o", "json", "--input", filepath.Join(harness.Root(), "demo", "payloads.yaml"))
	if err != nil {
		return err
	}
	st.s.note("What the policy will say of the workflow's payloads (temporal-seal explain --input demo/payloads.yaml):")
	for _, a := range answers {
		if a.Error != "" {
			return fmt.Errorf("temporal-seal explain: %s: %s", a.Name, a.Error)
		}
		p := prediction{payload: a.Name, verdict: a.Action, rule: a.decidedBy()}
		if a.Action == "seal" {
			p.verdict = "seal " + a.Key
		}
		st.predicted = append(st.predicted, p)
		st.s.row(cell{1, plain, "", 1}, cell{29, plain, p.payload, 1}, cell{13, verdictStyle(p.verdict), p.verdict, 1}, cell{max(1, st.s.width-indent-46), dim, p.rule, 1})
	}
	return nil
}

// decidedBy names the rules that gave the verdict which won, by file and line.
func (a explained) decidedBy() string {
	var rules []string
	for _, p := range a.Packages {
		for _, r := range p.Rules {
			for _, v := range r.Verdicts {
				var said struct{ Action, Key string }
				if json.Unmarshal([]byte(v), &said) == nil && said.Action == a.Action && (said.Key == a.Key || said.Key == "") {
					rules = append(rules, filepath.Base(r.Location))
				}
			}
		}
	}
	return strings.Join(rules, ", ")
}

// checkPredictions compares what the policy said before with what the server has.
func (st *stage) checkPredictions(found map[string]string) error {
	for _, p := range st.predicted {
		if got, ok := found[p.payload]; !ok {
			return fmt.Errorf("temporal-seal explain told of %q, which no event holds", p.payload)
		} else if got != p.verdict {
			return fmt.Errorf("temporal-seal explain said %q of %q, and the server has %q", p.verdict, p.payload, got)
		}
	}
	st.s.done("each verdict is the one that temporal-seal explain told: %d of %d", len(st.predicted), len(st.predicted))
	return nil
}
