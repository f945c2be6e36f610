package rewrite

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

var updateDocs = flag.Bool("update-docs", false, "write the generated table of docs/policy.md")

const (
	policyDocs = "../../docs/policy.md"
	factsBegin = "<!-- facts: written by `go test ./internal/rewrite -run TestFactTable -update-docs` -->\n"
	factsEnd   = "<!-- end of facts -->\n"
)

// TestFactTable holds the table in the documentation to the plan.
func TestFactTable(t *testing.T) {
	rows, err := Facts()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(policyDocs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), factsBegin)
	_, after, ok2 := strings.Cut(rest, factsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of facts", policyDocs)
	}
	want := before + factsBegin + factTable(rows) + factsEnd + after
	if *updateDocs {
		if err := os.WriteFile(policyDocs, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Errorf("the table of facts in %s is not what the plan says; write it anew with -update-docs", policyDocs)
	}
}

// factTable writes a row per RPC and kind. Rows that differ in paths only are one: a
// fact counts as contained if it is contained wherever it applies.
func factTable(rows []policy.CallFacts) string {
	var b strings.Builder
	b.WriteString("| request | kind | workflow id | workflow type | task queue | activity id | activity type |\n|---|---|---|---|---|---|---|\n")
	for i := 0; i < len(rows); {
		row := rows[i]
		told := policy.AllFacts // in all paths, or not applicable there
		known := policy.FactSet(0)
		byTask := policy.AllFacts
		for ; i < len(rows) && rows[i].RPC == row.RPC && rows[i].Kind == row.Kind; i++ {
			r := rows[i]
			told &= r.Known | r.NotApplicable
			known |= r.Known
			byTask &= r.Known | r.NotApplicable | r.ByTask
		}
		fmt.Fprintf(&b, "| %s | %s |", row.RPC, row.Kind)
		for _, fact := range []policy.FactSet{policy.FactWorkflowID, policy.FactWorkflowType, policy.FactTaskQueue, policy.FactActivityID, policy.FactActivityType} {
			cell := "no"
			switch {
			case told&known&fact != 0:
				cell = "yes"
			case told&fact != 0:
				cell = "–"
			case byTask&fact != 0:
				cell = "task"
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	return b.String()
}
