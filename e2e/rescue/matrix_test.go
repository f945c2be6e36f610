package rescue

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// Causes.
const (
	never     = "never opens: another namespace's envelope"
	outage    = "keys out of reach for a while"
	long      = "keys out of reach for longer than its timeout"
	denied    = "the policy denies it to whom it is handed"
	forbidden = "the policy denies its answer"
	tooLarge  = "its answer is too large once it is sealed"
)

// scenario is one row of the table: it makes a task of a kind suffer a cause, and returns what the server shows. The text
// has no times and counts that vary.
type scenario struct {
	task, cause string
	alone       bool // it makes the KMS fail
	since       string
	run         func(*site) string
}

var scenarios = slices.Concat(workflowTasks, activities, asked, nexusTasks, returned, answers, polls, reads)

// again is not what the server shows: the machine was too busy for the scenario.
const again = "again"

func (sc scenario) show(t *testing.T, server *frontend) (text string) {
	for try := range 3 {
		site := newSite
		if sc.alone {
			site = newOutage
		}
		s := site(t, server)
		s.id, s.queue = fmt.Sprint(s.id, "-", try), fmt.Sprint(s.queue, "-", try)
		if text = sc.run(s); text != again {
			return text
		}
	}
	t.Error("the server lost its tasks each time")
	return text
}

// absent is what a server shows that does not have a kind of task.
const absent = "this server has none"

// TestMatrix holds docs/operations.md to what the servers show. SEAL_TASK_MATRIX=write writes it there.
func TestMatrix(t *testing.T) {
	shown := map[string]map[string]string{} // row, server
	var mu sync.Mutex
	t.Run("on", func(t *testing.T) {
		for _, sc := range scenarios {
			row := "| " + sc.task + " | " + sc.cause
			if shown[row] != nil {
				t.Fatalf("two scenarios for %s", row)
			}
			shown[row] = map[string]string{}
			for _, server := range servers {
				t.Run(strings.Join([]string{server.name, sc.task, sc.cause}, "/"), func(t *testing.T) {
					t.Parallel()
					text := absent
					if sc.since == "" || server == servers[0] {
						text = sc.show(t, server)
					}
					mu.Lock()
					defer mu.Unlock()
					shown[row][server.name] = text
				})
			}
		}
	})
	if t.Failed() {
		return
	}
	table, whole := tableOf(shown)
	if !whole {
		t.Logf("not all of the table was made, so it is not compared:\n%s", table)
		return
	}
	compare(t, table)
}

// tableOf writes the table. whole is false where a server was not asked about a row.
func tableOf(shown map[string]map[string]string) (table string, whole bool) {
	b := new(strings.Builder)
	names := []string{servers[0].name, servers[1].name}
	fmt.Fprintf(b, "| task | cause | what Temporal %s shows | %s |\n|---|---|---|---|\n", names[0], names[1])
	whole = true
	for _, sc := range scenarios {
		row := "| " + sc.task + " | " + sc.cause
		present, older := shown[row][names[0]], shown[row][names[1]]
		whole = whole && present != "" && older != ""
		if older == present {
			older = "the same"
		}
		fmt.Fprintf(b, "%s | %s | %s |\n", row, present, older)
	}
	return b.String(), whole
}

const (
	from = "<!-- made by `make task-matrix` -->\n"
	to   = "<!-- end of what `make task-matrix` made -->\n"
)

func compare(t *testing.T, table string) {
	path := filepath.Join(harness.Root(), "docs", "operations.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), from)
	old, after, ended := strings.Cut(rest, to)
	if !ok || !ended {
		t.Fatalf("%s has no room for the table, between %q and %q", path, from, to)
	}
	if old == table {
		return
	}
	if os.Getenv("SEAL_TASK_MATRIX") != "write" {
		t.Errorf("docs/operations.md does not say what the servers show; `make task-matrix` writes it there:\n%s", table)
		return
	}
	if err := os.WriteFile(path, []byte(before+from+table+to+after), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("written to docs/operations.md:\n%s", table)
}
