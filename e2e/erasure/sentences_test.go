package erasure

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// sentence is one claim about an erasure.
type sentence struct {
	id, text string
	// not says why there is no case on a store.
	not map[string]string
}

var alone = map[string]string{sqlite: "one process has the file, and is stopped while a command runs"}

// sentences are all claims of this suite. A case names the one that it shows, and each has a case on every store.
var sentences = []sentence{
	{"before", "three patients of one type of workflow open on every replica, by the codec servers and by `open`", nil},
	{"dry run", "the dry run lists what runs, or will run, with values of the patient", nil},
	{"nowhere", "once the command has ended, the patient opens on no replica, by no codec server and not by `open`, where keys were in memory too", nil},
	{"saved", "histories that were saved or archived before open nowhere, while those of others do", nil},
	{"certificate", "the certificate names the destroyed key, and the replicas that have confirmed", nil},
	{"replay", "an SDK's client that reads a history of the patient gets an error, and no placeholder for a replay", nil},
	{"denied", "nothing is sealed for the patient", nil},
	{"others", "the other patients open everywhere, and their workflows complete", nil},
	{"activity", "an activity that has, or answers with, a value of the patient fails for good as Erased", nil},
	{"workflow task", "a workflow task that brings or answers with a value of the patient fails once, with the reason", nil},
	{"terminate", "--terminate terminates what holds values of the patient, with the reason", nil},
	{"query", "a query on a closed run of the patient gets the reason", nil},
	{"calm", "no line of a log is a warning for what follows from an erasure", nil},
	{"bytes", "the wrapped key is in no file or item of the store", nil},
	{"seal against erase", "what is sealed while the command runs opens nowhere once it has ended, and nothing more is sealed", alone},
	{"two erases", "two commands at once destroy the key once; one that does not get the store says so, and may be run again", nil},
	{"outage", "without the key store, or with its file in use, the command says so and changes nothing", nil},
	{"partition", "a replica that cannot reach the store is named, opens and seals nothing after erasure_max_lag, and has the erasure when it can", alone},
	{"slept", "a replica that slept during the erasure is named, and has it within seconds after it wakes", alone},
	{"restored store", "a store that is restored from before the erasures gives no key back, once they are entered again", nil},
	{"halted", "replicas that know an erasure which the store lacks use no key of a patient until it is entered again", alone},
	{"readmit", "a patient who is readmitted is sealed for again, and what was erased stays erased", nil},
	{"restored server", "a Temporal database that is restored from before the erasure opens nothing of the patient, and the rest", nil},
	{"text", "no text of a patient is in a file or row of the store, or of the server, in logs, spans, metrics, configs, audit records or certificates", nil},
}

// elsewhere are claims that a test within one process shows, since no clock of another process can be set here.
const elsewhere = "a replica whose clock was put back or stood still uses no key of a patient longer than it may: " +
	"./internal/crypto/keyring TestStoreOutOfReach"

// tally is what the last lines say.
var tally struct {
	sync.Mutex
	cases, right int
	inForce      time.Duration
	by           map[string]map[string]int // cases by sentence and store
	stores       []string
	missing      []string // stores that are not installed
}

// is records one case of a sentence.
func (c *clinic) is(id, what string, err error) {
	c.Helper()
	if !slices.ContainsFunc(sentences, func(s sentence) bool { return s.id == id }) {
		c.Fatalf("no sentence %q", id)
	}
	tally.Lock()
	defer tally.Unlock()
	tally.cases++
	outcome := "as described"
	if err != nil {
		outcome = "FAILED"
		c.Errorf("%s: %v", what, err)
	} else {
		tally.right++
	}
	if tally.by[id] == nil {
		tally.by[id] = map[string]int{}
	}
	tally.by[id][c.db.name()]++
	fmt.Printf("%-9s  %-100s %s\n", c.db.name(), what, outcome)
}

// took records how long it was until an erasure was in force.
func (c *clinic) took(t time.Duration) {
	tally.Lock()
	defer tally.Unlock()
	tally.inForce = max(tally.inForce, t)
}

// report prints a line for each sentence, and fails where one has no case on a store.
func report(t *testing.T) {
	fmt.Println()
	for _, s := range sentences {
		state, counts := "ok", []string(nil)
		for _, store := range tally.stores {
			n, why := tally.by[s.id][store], s.not[store]
			switch {
			case n > 0:
				counts = append(counts, fmt.Sprintf("%s %d", store, n))
			case why != "":
				counts = append(counts, fmt.Sprintf("%s none (%s)", store, why))
			default:
				state = "NO CASE"
				counts = append(counts, store+" 0")
			}
		}
		if state != "ok" {
			t.Errorf("no case on each store for: %s", s.text)
		}
		fmt.Printf("%-9s  %s: %s\n", state, s.text, strings.Join(counts, ", "))
	}
	text, err := os.ReadFile(filepath.Join(harness.Root(), "internal", "crypto", "keyring", "subjects_test.go"))
	if err != nil || !strings.Contains(string(text), "\nfunc TestStoreOutOfReach(") {
		t.Errorf("the test is not there, %v: %s", err, elsewhere)
	}
	fmt.Printf("%-9s  %s\n", "elsewhere", elsewhere)
	for _, why := range tally.missing {
		fmt.Println("left out   " + why)
	}
}

func TestMain(m *testing.M) {
	tally.by = map[string]map[string]int{}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "4") // the stores at once: they wait more than they compute
	}
	exit := m.Run()
	harness.RemoveProxy()
	fmt.Printf("erasure: %d cases, %d as described; in force on every replica after %.1f s\n", tally.cases, tally.right, tally.inForce.Seconds())
	os.Exit(exit)
}
