package detect

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// leastRecall is how many percent of the labelled values each detector has to find.
const leastRecall = 95

// TestRecall searches labelled documents that scripts/recall_documents.py has made, whose values come from a library that knows nothing of the
// detectors. SEAL_RECALL names the file; `make test-recall` makes it.
func TestRecall(t *testing.T) {
	name := os.Getenv("SEAL_RECALL")
	if name == "" {
		t.Skip("run by make test-recall")
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all, found, missed := map[string]int{}, map[string]int{}, map[string][]string{}
	documents := 0
	for lines := bufio.NewScanner(file); lines.Scan(); documents++ {
		var d struct{ What, Text string }
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			t.Fatal(err)
		}
		all[d.What]++
		if slices.ContainsFunc(new(Detector).Text(d.Text), func(f Finding) bool { return f.What == d.What }) {
			found[d.What]++
		} else {
			missed[d.What] = append(missed[d.What], d.Text)
		}
	}
	if documents < 2000 {
		t.Errorf("only %d documents", documents)
	}
	total := 0
	var words []string
	for what, n := range all {
		total += found[what]
		words = append(words, fmt.Sprintf("%s %d/%d", what, found[what], n))
		if 100*found[what] < leastRecall*n {
			t.Errorf("%s: %d of %d found; not found: %q", what, found[what], n, missed[what][:min(len(missed[what]), 10)])
		}
	}
	slices.Sort(words)
	fmt.Printf("recall: %d documents, %d found: %s\n", documents, total, strings.Join(words, ", "))
}
