// Package recall measures how much of what labelled documents hold the survey finds, and how much of what it finds is so labelled.
// Whoever wrote the documents had not seen the detectors. The documents are generated; there are two halves:
//
//   - seen_test.go: the half by which detectors may be improved; heldout_test.go: the half by which nothing is improved
//   - values_test.go, national_test.go: values of each class, and look-alikes; documents_test.go: documents from templates
//   - recall_test.go: the built binary's survey of both, compared with the labels
package recall_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	exportpb "go.temporal.io/api/export/v1"
	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

const (
	each  = 1_200 // documents of a half
	least = 95    // percent of precision and of recall that a clear-cut class requires in both halves
)

// detectors are what the survey calls its findings, by the class of labels that they are for.
var detectors = []detector{
	{name: "jwt", what: "JSON Web Token", classes: "jwt"},
	{name: "service key", what: "key of", classes: "service key"},
	{name: "private key", what: "private key", classes: "private key"},
	{name: "password in URL", what: "password in a URL", classes: "password in URL"},
	{name: "email", what: "e-mail address", classes: "email"},
	{name: "phone", what: "telephone number", classes: "phone"},
	{name: "card", what: "payment card", classes: "card"},
	{name: "iban", what: "IBAN", classes: "iban"},
	{name: "national id", what: "number|code", classes: "national id", also: "weak national id"},
	{name: "fhir", what: "FHIR resource", classes: "fhir"},
	{name: "hl7", what: "HL7 message", classes: "hl7"},
	// Lists of names have no more than what somebody wrote down: of names that others choose, the held-out half shows how many they lack.
	{name: "secret by name", byName: true, unseen: 60, what: "password|secret|token", classes: "secret", also: "jwt,service key,private key"},
	{name: "birth by name", byName: true, unseen: 80, what: "date of birth", classes: "birth"},
	{name: "government id by name", byName: true, unseen: 40, what: "government identifier", classes: "govid", also: "national id"},
	{name: "health by name", byName: true, unseen: 40, what: "health", classes: "health", also: "person"},
	// No recall is claimed for these: names of persons and free text have no form, and the others are no proof.
	{name: "person by name", byName: true, open: true, what: "name of a person", classes: "person"},
	{name: "bank by name", byName: true, open: true, what: "bank account", classes: "bank", also: "iban"},
	{name: "income by name", byName: true, open: true, what: "income", classes: "income"},
	{name: "national id, weak form", open: true, by: "national id", what: "\x00", classes: "weak national id"},
	{name: "other by name", byName: true, open: true, what: "", classes: "", also: "card,email,phone,secret,postal"},
	{name: "other by form", open: true, what: "", classes: "", also: "jwt,service key,private key,secret,password in URL"},
}

// A detector is a kind of finding.
type detector struct {
	name   string
	byName bool   // it finds by the name of a member alone
	open   bool   // nothing is required of it
	unseen int    // percent of recall that the held-out half requires; 0: least
	by     string // the detector whose findings count for its recall; "": its own
	what   string // what the survey's findings of it start or end with; "": any that no other has
	// Classes that it is to find, and those where it is not wrong, each with commas between them.
	classes, also string

	labels, found, right, wrong int
	missed, mistaken            map[string]int // by kind, or by template and pointer
}

// of reports whether a finding is the detector's.
func (d *detector) of(what string, byName bool) bool {
	if d.byName != byName {
		return false
	}
	for part := range strings.SplitSeq(d.what, "|") {
		if what == part || strings.HasPrefix(what, part) || d.name == "national id" && strings.HasSuffix(what, part) {
			return true
		}
	}
	return false
}

// report is what the test reads of the survey's JSON.
type report struct {
	Rows []struct {
		At struct {
			Workflow string `json:"workflow_type"`
		} `json:"at"`
		Pointer  string `json:"pointer"`
		Findings []struct {
			What      string `json:"what"`
			Certainty string `json:"certainty"`
			Count     int    `json:"count"`
		} `json:"findings"`
	} `json:"rows"`
}

// typeName is the workflow type of a document: letters, since a name with digits may be data.
func typeName(i int) string {
	out := []byte("Doc")
	for range 4 {
		out = append(out, lower[i%26])
		i /= 26
	}
	return string(out)
}

// export writes documents as the histories of workflows, each of a type of its own, as servers export them.
func export(t *testing.T, documents []document) string {
	t.Helper()
	var all exportpb.WorkflowExecutions
	for i, d := range documents {
		encoding := "json/plain"
		if d.text {
			encoding = "binary/plain"
		}
		input := &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: d.data}}}
		all.Items = append(all.Items, &exportpb.WorkflowExecution{History: &historypb.History{Events: []*historypb.HistoryEvent{{
			EventId: 1, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
			Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
				WorkflowId: "w", WorkflowType: &commonpb.WorkflowType{Name: typeName(i)}, Input: input}}}}}})
	}
	data, err := proto.Marshal(&all)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "export.pb")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// survey runs the built binary over documents.
func survey(t *testing.T, documents []document) (r report) {
	t.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, "survey", "--namespace", "recall", "--samples", "0", "-o", "json", export(t, documents))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// place is a pointer of a document.
type place struct{ workflow, pointer string }

// measure compares what the survey finds with the labels.
func measure(t *testing.T, documents []document) []*detector {
	t.Helper()
	var all []*detector
	for _, d := range detectors {
		d.missed, d.mistaken = map[string]int{}, map[string]int{}
		all = append(all, &d)
	}
	found := map[place]map[string]int{}
	for _, row := range survey(t, documents).Rows {
		at := place{row.At.Workflow, row.Pointer}
		found[at] = map[string]int{}
		for _, f := range row.Findings {
			i := slices.IndexFunc(all, func(d *detector) bool { return d.of(f.What, f.Certainty == "by name") })
			name := all[i].name
			found[at][name] = max(found[at][name], f.Count) // a number may be two countries'
		}
	}
	for i, document := range documents {
		labels := map[string]map[string][]string{} // the kinds, by pointer and class
		for _, l := range document.labels {
			if l.class == "fhir" {
				l.pointer = strings.TrimSuffix(l.pointer, "/resourceType")
			}
			if labels[l.pointer] == nil {
				labels[l.pointer] = map[string][]string{}
			}
			labels[l.pointer][l.class] = append(labels[l.pointer][l.class], l.kind)
		}
		for _, d := range all {
			d.compare(typeName(i), document.template, labels, found)
		}
	}
	return all
}

// compare counts one document.
func (d *detector) compare(workflow, template string, labels map[string]map[string][]string, found map[place]map[string]int) {
	for pointer, classes := range labels {
		for class, kinds := range classes {
			if d.classes != class {
				continue
			}
			n := min(found[place{workflow, pointer}][cmp.Or(d.by, d.name)], len(kinds))
			d.labels += len(kinds)
			d.found += n
			for _, kind := range kinds[n:] { // which of several was missed is not known
				d.missed[kind+" ("+template+")"]++
			}
		}
	}
	for at, by := range found {
		if at.workflow != workflow || by[d.name] == 0 {
			continue
		}
		right := 0
		for class, kinds := range labels[at.pointer] {
			if slices.Contains(strings.Split(d.classes+","+d.also, ","), class) {
				right += len(kinds)
			}
		}
		right = min(right, by[d.name])
		d.right += right
		if by[d.name] > right {
			d.wrong += by[d.name] - right
			d.mistaken[template+" "+at.pointer] += by[d.name] - right
		}
	}
}

func percent(part, of int) float64 {
	if of == 0 {
		return 100
	}
	return 100 * float64(part) / float64(of)
}

// TestLabelled requires of each clear-cut class that the survey finds it, and finds it only where it is. RECALL_SEED makes other documents.
func TestLabelled(t *testing.T) {
	seed := uint64(1)
	if text := os.Getenv("RECALL_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 32); err != nil {
			t.Fatalf("RECALL_SEED=%q is not a number", text)
		}
	}
	seen := measure(t, half(2*seed, each, seenTemplates, seenNames))
	heldOut := measure(t, half(2*seed+1, each, heldOutTemplates, heldOutNames))
	fmt.Printf("%-22s %28s   %28s\n%-22s %9s %8s %9s   %9s %8s %9s\n", "", "seen half", "held-out half", "detector", "labels", "recall", "precision", "labels", "recall", "precision")
	lowest, byName, clear := [2]float64{100, 100}, 100.0, 0
	var short []string
	for i, d := range seen {
		fmt.Printf("%-22s", d.name)
		for side, d := range []*detector{d, heldOut[i]} {
			recall, precision := percent(d.found, d.labels), percent(d.right, d.right+d.wrong)
			fmt.Printf(" %9d %6.1f %% %7.1f %%  ", d.labels, recall, precision)
			if d.open {
				continue
			}
			if side == 0 {
				clear++
			}
			required := float64(least)
			if side == 1 && d.unseen > 0 {
				required = float64(d.unseen)
				byName = min(byName, recall)
			} else {
				lowest[side] = min(lowest[side], recall)
			}
			lowest[side] = min(lowest[side], precision)
			if half := []string{"seen", "held-out"}[side]; recall < required || precision < least || d.labels < 30 {
				short = append(short, fmt.Sprintf("%s: %s half: %d labels, recall %.1f %% of %.0f %%, precision %.1f %% of %d %%", d.name, half, d.labels, recall, required, precision, least))
			}
		}
		fmt.Println()
	}
	for _, line := range short {
		t.Error(line)
	}
	if testing.Verbose() {
		for _, d := range seen { // of the held-out half there are sums alone
			for _, list := range []map[string]int{d.missed, d.mistaken} {
				for _, what := range slices.Sorted(maps.Keys(list)) {
					t.Logf("%s: %d x %s", d.name, list[what], what)
				}
			}
		}
	}
	fmt.Printf("recall: %d labelled documents, %d clear-cut classes; lowest of precision and recall: %.1f %% seen, %.1f %% held out; recall of held-out names of members: %.1f %%\n",
		2*each, clear, lowest[0], lowest[1], byName)
}

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}
