package survey

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// load returns the shipped policy, with those of namespaces in a folder.
func load(t *testing.T, folder string) *policy.Policy {
	t.Helper()
	p, err := policy.Load(t.Context(), policy.Options{Shipped: temporalseal.ShippedPolicy, Namespaces: folder, RPCs: rewrite.RPCs(),
		Unmatched: envelope.Unmatched})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestStoredInClear: what was read in clear is in clear, also if the policy in force would seal it.
func TestStoredInClear(t *testing.T) {
	s, _ := newSurvey(t, Options{InForce: load(t, "")})
	if err := s.File(t.Context(), "clinic", "a.bin", export(t, 10)); err != nil {
		t.Fatal(err)
	}
	r := s.Report(nil, time.Now())
	if n := r.Summary; n.Stored != 11 || n.Places != 11 || n.InClear == nil || *n.InClear != 0 || n.CandidateClear != nil {
		t.Errorf("%+v", n)
	}
	for _, row := range r.Found() {
		for _, f := range row.Findings {
			if f.Stored != f.Count || f.Stored == 0 || f.Left() != 0 || f.CandidateClear != nil {
				t.Errorf("%s %s: %+v", row.At, row.Pointer, f)
			}
		}
	}
	var page bytes.Buffer
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<th scope="col">Stored in clear</th>`, `<th scope="col">The policy in force would leave in clear</th>`,
		`<th scope="row">Places with findings stored in clear</th><td class="n">11</td>`,
		`<th scope="row">Places with findings that the policy in force would leave in clear</th><td class="n">0</td>`} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
}

// TestLeavesReadable: a written policy and the candidate's report list what stays readable beside sealed members, and no value.
func TestLeavesReadable(t *testing.T) {
	s, _ := newSurvey(t, Options{})
	raw := export(t, 120)
	if err := s.File(t.Context(), "clinic", "a.bin", raw); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "policies")
	if _, err := s.WritePolicy(folder); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "clinic.rego"))
	if err != nil || bytes.Count(text, []byte("# stays readable: ")) != 2 || !bytes.Contains(text, []byte("\n# stays readable: /ok\nrequest contains")) ||
		!bytes.Contains(text, []byte("\n# stays readable: /ward\nrequest contains")) {
		t.Errorf("%v\n%s", err, text)
	}
	again, _ := newSurvey(t, Options{Candidate: load(t, folder)})
	if err := again.File(t.Context(), "clinic", "a.bin", raw); err != nil {
		t.Fatal(err)
	}
	r := again.Report(nil, time.Now())
	var got []string
	for _, left := range r.Leaves {
		got = append(got, left.At.String()+": "+left.List())
	}
	if want := []string{"clinic/Admission input: /ward", "clinic/Admission/Fetch result: /ok"}; !slices.Equal(got, want) {
		t.Errorf("the candidate leaves %q, want %q", got, want)
	}
	var page bytes.Buffer
	if err := r.HTML(&page); err != nil || !strings.Contains(page.String(), "<tr><td>clinic/Admission input</td><td><code>/ward</code></td></tr>") {
		t.Errorf("%v\n%s", err, page.String())
	}
}

// TestLeavesOfManyNames: names that are data are hidden, and the list is bounded.
func TestLeavesOfManyNames(t *testing.T) {
	s, table := newSurvey(t, Options{})
	stratum := table.stratum(Place{Namespace: "clinic", Kind: "input"})
	l := looker{detector: s.options.Detector, stratum: stratum,
		verdicts: verdicts{candidate: verdict{fields: [][]string{{"born"}, {"rooms", "*", "born"}}}}}
	members := []string{`"born":"1970-01-01"`, fmt.Sprintf(`"byName":{%q:{"bed":1}}`, planted[4]), `"rooms":[{"born":"1970-01-01","bed":null}]`, `"empty":{}`}
	for i := range 42 {
		members = append(members, fmt.Sprintf(`"m%d":true`, i))
	}
	l.data("json/plain", []byte("{"+strings.Join(members, ",")+"}"))
	byVerdict, _ := stratum.leaves()
	var byFields Leaves
	byFields.besides(stratum.Root, "", []string{"/born", "/rooms/*/born"})
	for what, left := range map[string]Leaves{"the candidate": byVerdict, "the policy that is written": byFields} {
		if len(left.Pointers) != maxLeaves || left.More != 4 || !strings.HasSuffix(left.List(), " and 4 more") || strings.Contains(left.List(), "born") ||
			!slices.Contains(left.Pointers, "/m6") {
			t.Errorf("%s: %s", what, left.List())
		}
	}
	few := table.stratum(Place{Namespace: "clinic", Kind: "memo"})
	l = looker{detector: s.options.Detector, stratum: few, verdicts: l.verdicts}
	l.data("json/plain", []byte("{"+strings.Join(members[:4], ",")+"}"))
	if left, _ := few.leaves(); left.List() != "/byName/{key}/bed, /rooms/*/bed" {
		t.Errorf("%q", left.List())
	}
}
