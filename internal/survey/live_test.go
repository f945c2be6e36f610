package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	failurepb "go.temporal.io/api/failure/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

func newTestLive() *Live {
	return NewLive(LiveOptions{Detector: new(detect.Detector), Sampler: rewrite.NewSampler(), Rate: 10_000, CPUPercent: 50,
		Log: slog.New(slog.DiscardHandler), Known: func(namespace string) bool { return namespace != "invented" }})
}

// sampleOf is a payload of a request, about which a policy has decided.
func sampleOf(t *testing.T, workflow, document string, v policy.Verdict) *rewrite.Sample {
	t.Helper()
	raw, err := proto.Marshal(payload("json/plain", document))
	if err != nil {
		t.Fatal(err)
	}
	return &rewrite.Sample{Direction: policy.Request, Namespace: "clinic", WorkflowType: workflow, Kind: "input", Value: raw, Verdict: v}
}

// TestLive: what is found is counted by place, with what the policy in force leaves in clear, and no value stays anywhere.
func TestLive(t *testing.T) {
	live, document := newTestLive(), fmt.Sprintf(`{"contact":{"mail":"%s"},"iban":"%s"}`, planted[0], planted[1])
	search := func(workflow string, change func(*rewrite.Sample)) {
		t.Helper()
		s := sampleOf(t, workflow, document, policy.Verdict{Action: policy.Pass})
		change(s)
		live.search(s)
		if strings.Trim(string(s.Value), "\x00") != "" {
			t.Error("the sample is not wiped")
		}
	}
	search("Pass", func(*rewrite.Sample) {})
	search("Fields", func(s *rewrite.Sample) { s.Verdict = policy.Verdict{Action: policy.Seal, Fields: []string{"/contact"}} })
	search("Missing", func(s *rewrite.Sample) { s.Verdict = policy.Verdict{Action: policy.Seal, Fields: []string{"/none"}} })
	search("Seal", func(s *rewrite.Sample) { s.Verdict = policy.Verdict{Action: policy.Seal} })
	search("Shadow", func(s *rewrite.Sample) { s.Verdict, s.Shadowed = policy.Verdict{Action: policy.Seal}, true })
	search("Answer", func(s *rewrite.Sample) { s.Direction = policy.Response })
	search("Invented", func(s *rewrite.Sample) { s.Namespace = "invented" })
	search("Text", func(s *rewrite.Sample) {
		s.Form, s.Kind, s.Value = rewrite.SampleText, "text", []byte("write to "+planted[0])
	})
	search("Failure", func(s *rewrite.Sample) {
		raw, err := proto.Marshal(&failurepb.Failure{Message: "x", Cause: &failurepb.Failure{Message: "no bed for " + planted[0]}})
		if err != nil {
			t.Fatal(err)
		}
		s.Form, s.Kind, s.Value = rewrite.SampleFailure, "failure", raw
	})
	search("Junk", func(s *rewrite.Sample) { s.Value = []byte("\xff\xff") })
	search("Junk", func(s *rewrite.Sample) { s.Form, s.Value = rewrite.SampleFailure, []byte("\xff\xff") })
	r := live.Report()
	clear := map[string]int{}
	for _, row := range r.Findings {
		for _, f := range row.Findings {
			clear[row.At.WorkflowType+row.Pointer] += *f.Clear
			if f.CandidateClear != nil || f.Stored != 0 || f.Count == 0 {
				t.Errorf("%s: %+v", row.At, f)
			}
		}
	}
	want := map[string]int{"Pass/contact/mail": 2, "Pass/iban": 2, "Fields/contact/mail": 0, "Fields/iban": 2, "Missing/iban": 0, "Missing/contact/mail": 0,
		"Seal/iban": 0, "Seal/contact/mail": 0, "Shadow/iban": 2, "Shadow/contact/mail": 2, "Answer/iban": 0, "Answer/contact/mail": 0, "Text": 1, "Failure": 1}
	for place, n := range want {
		if got, found := clear[place]; !found || got != n {
			t.Errorf("%s: %d findings in clear, want %d (%v)", place, got, n, found)
		}
	}
	if len(clear) != len(want) || r.Places != len(want) || r.Sampling.Searched != 10 || r.Sampling.Dropped != 1 || r.Sampling.Seconds <= 0 {
		t.Errorf("%+v\n%v", r, clear)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range planted {
		if strings.Contains(string(text), value) {
			t.Errorf("the report has a value: %s", text)
		}
	}
}

// TestLiveBounds: names that callers make up take bounded memory.
func TestLiveBounds(t *testing.T) {
	live := newTestLive()
	for i := range 2 * liveBounds.strata {
		live.search(sampleOf(t, fmt.Sprint("Type", i), `{"a":1}`, policy.Verdict{}))
	}
	deep := strings.Repeat(`{"a":1,"b":{"c":1},"d":`, 20) + "1" + strings.Repeat("}", 20)
	for i := range 2 * liveBounds.nodes {
		live.search(sampleOf(t, "Type0", strings.ReplaceAll(deep, `"a"`, fmt.Sprintf(`"a%c%c"`, 'a'+i%26, 'a'+i/26)), policy.Verdict{}))
	}
	for _, document := range []string{tree(12, `[%s,%[1]s]`), tree(7, `{"a b":%s,"c":[%[1]s]}`), tree(7, `{"a":%s,"b":%[1]s}`), "[" + tree(6, `{"a":[%s],"a b":%[1]s}`) + `,{"c":1}]`} {
		live.search(sampleOf(t, "Type1", document, policy.Verdict{}))
		live.search(sampleOf(t, "Type2", `{"x":`+document+`,"y":`+document+"}", policy.Verdict{}))
	}
	table := live.survey.table
	if len(table.Strata) > liveBounds.strata+1 {
		t.Errorf("%d places", len(table.Strata))
	}
	for _, s := range table.Strata {
		if s.Nodes > liveBounds.nodes || s.Nodes != s.Root.size()-1 {
			t.Errorf("%d nodes are counted, and %d are there, at %s", s.Nodes, s.Root.size()-1, s.At)
		}
	}
	if r := live.Report(); len(r.Findings) > LiveFindings {
		t.Errorf("%d rows", len(r.Findings))
	}
}

// TestLiveCost: what a payload of brackets and small values makes the survey allocate is in proportion to its length.
func TestLiveCost(t *testing.T) {
	const depth, most = 9_000, 100 << 20
	for what, inner := range map[string]string{"depth": "", "elements": strings.Repeat("1,", 20_000) + "1"} {
		live, sample := newTestLive(), sampleOf(t, "Deep", strings.Repeat("[", depth)+inner+strings.Repeat("]", depth), policy.Verdict{})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		live.search(sample)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			t.Errorf("%s: %d MB are allocated", what, n>>20)
		}
	}
}

// TestLiveValues: a payload with too many values is searched up to the bound, whatever holds them.
func TestLiveValues(t *testing.T) {
	mail := fmt.Sprintf(`"%s"`, planted[0])
	for document, want := range map[string]int{
		"[" + mail + strings.Repeat(",1", liveValues) + "]":                     1,
		"[1" + strings.Repeat(",1", liveValues) + "," + mail + "]":              0,
		`{"a":[1` + strings.Repeat(",1", liveValues) + `],"b":` + mail + "}":    0,
		`{"a":` + mail + `,"b":[1` + strings.Repeat(",1", liveValues) + "]}":    1,
		`{"a":[1` + strings.Repeat(",1", liveValues-10) + `],"b":` + mail + "}": 1,
	} {
		live := newTestLive()
		live.search(sampleOf(t, "Many", document, policy.Verdict{}))
		if n := live.Report().Places; n != want {
			t.Errorf("%.20s: findings at %d places, want %d", document, n, want)
		}
	}
}

// tree is a document of so many levels, of which each has the one below twice.
func tree(levels int, form string) string {
	document := "1"
	for range levels {
		document = fmt.Sprintf(form, document)
	}
	return document
}

// TestLiveNames: names that are data are not listed, also where the nodes end before there are many of them.
func TestLiveNames(t *testing.T) {
	patient := func(i int) string { return fmt.Sprintf(`"Patient%c%c":{"a":1,"b":1,"c":1,"d":1}`, 'a'+i%26, 'a'+i/26) }
	for what, documents := range map[string]func() []string{
		"all in one document": func() []string {
			all := make([]string, 60)
			for i := range all {
				all[i] = patient(i)
			}
			return []string{strings.Join(all, ",")}
		},
		"others in each document": func() []string {
			var all []string
			for i := 0; i < 60; i += 2 {
				all = append(all, patient(i)+","+patient(i+1))
			}
			return all
		},
		"behind a name that is data": func() []string {
			var all []string
			for i := range 20 {
				all = append(all, patient(i))
			}
			for i := range 60 {
				all = append(all, `"a name":{"a":1},`+patient(20+i))
			}
			return all
		},
	} {
		live := newTestLive()
		for _, d := range documents() {
			live.search(sampleOf(t, "Roster", `{"id":1,"patients":{`+d+"}}", policy.Verdict{}))
		}
		s := live.survey.table.Strata[0]
		patients := s.Root.Members["patients"]
		if len(patients.Members) > 0 || patients.Any == nil || len(patients.Any.Members) != 4 || s.Root.Members["id"] == nil {
			t.Errorf("%s: %d names are listed, %+v", what, len(patients.Members), patients.Any)
		}
		if s.Nodes != s.Root.size()-1 || s.Nodes > 10 {
			t.Errorf("%s: %d nodes are counted, and %d are there", what, s.Nodes, s.Root.size()-1)
		}
	}
}

// TestLiveRecord: a record with more members than there is room for keeps the names that are listed. What has no node is
// counted at the object that has it, with all that it holds.
func TestLiveRecord(t *testing.T) {
	live := newTestLive()
	var groups []string
	for g := 'a'; g < 'a'+20; g++ {
		var members []string
		for m := 'a'; m < 'a'+20; m++ {
			members = append(members, fmt.Sprintf(`"m%c":1`, m))
		}
		groups = append(groups, fmt.Sprintf(`"g%c":{%s}`, g, strings.Join(members, ",")))
	}
	for range 10 {
		live.search(sampleOf(t, "Record", "{"+strings.Join(groups, ",")+fmt.Sprintf(`,"z":{"ga":{"ma":"%s"}}}`, planted[0]), policy.Verdict{Action: policy.Pass}))
	}
	s := live.survey.table.Strata[0]
	if s.Nodes != liveBounds.nodes || len(s.Root.Members["ga"].Members) != 20 || s.Root.Any != nil {
		t.Errorf("%d nodes, %+v", s.Nodes, s.Root)
	}
	r := live.Report()
	if len(r.Findings) != 1 || r.Findings[0].Pointer != "" || r.Findings[0].Findings[0].Left() != 10 {
		t.Errorf("%+v", r.Findings)
	}
}

// TestBudget: searching that took too long waits until the process has used enough CPU time, and a quiet hour does not pay for
// a burst.
func TestBudget(t *testing.T) {
	b := budget{percent: 5}
	if b.exceeded(time.Second) {
		t.Error("nothing was used")
	}
	b.saved -= 150 * time.Millisecond
	if !b.exceeded(time.Second + 1900*time.Millisecond) {
		t.Error("100 ms were saved, and 95 ms earned: not exceeded")
	}
	for used := 3 * time.Second; b.exceeded(used); used += 100 * time.Millisecond {
		if used > 5*time.Second {
			t.Fatal("it stays exceeded")
		}
	}
	if b.exceeded(time.Hour); b.saved != maxSaved {
		t.Errorf("%s saved", b.saved)
	}
	if b.percent = 5; b.longest() != slowest {
		t.Errorf("nothing was searched, and %s are waited for", b.longest())
	}
	if b.saved = -2 * time.Minute; b.longest() != 40*time.Minute {
		t.Errorf("2 minutes at 5 %%: %s are waited for", b.longest())
	}
	if processCPU() <= 0 {
		t.Error("the process has used no CPU time")
	}
}

// TestLiveFault: a fault ends the search of one sample alone, which is wiped, counted, and logged without its value.
func TestLiveFault(t *testing.T) {
	live := newTestLive()
	var log bytes.Buffer
	live.options.Log = slog.New(slog.NewTextHandler(&log, nil))
	sample, detector := sampleOf(t, "Order", `{"mail":"`+planted[0]+`"}`, policy.Verdict{}), live.options.Detector
	known := live.options.Known
	live.options.Known = func(string) bool { panic(fmt.Sprintf("in %q", sample.Value)) }
	live.search(sample)
	live.options.Known, live.options.Detector = known, nil // the detector is read through a nil pointer
	live.search(sampleOf(t, "Order", `{"mail":"`+planted[0]+`"}`, policy.Verdict{}))
	live.options.Detector = detector
	live.search(sampleOf(t, "Order", `{"mail":"`+planted[0]+`"}`, policy.Verdict{}))
	if strings.Trim(string(sample.Value), "\x00") != "" {
		t.Error("the sample is not wiped")
	}
	if s := live.Sampling(); s.Failed != 2 || s.Searched != 1 || s.Seconds <= 0 {
		t.Errorf("%+v", s)
	}
	if text := log.String(); strings.Count(text, "level=ERROR") != 2 || !strings.Contains(text, "live.go") || strings.Contains(text, planted[0]) {
		t.Errorf("the log: %s", text)
	}
}

// TestScrapeWhileSearching: the counts are read while a sample is searched.
func TestScrapeWhileSearching(t *testing.T) {
	live := newTestLive()
	live.mu.Lock()
	defer live.mu.Unlock()
	read := make(chan Sampling)
	go func() { read <- live.Sampling() }()
	select {
	case <-read:
	case <-time.After(10 * time.Second):
		t.Error("the counts wait for the search")
	}
}

// TestLiveRun: a survey that runs asks for samples, and ends with its context, also while it waits for CPU time.
func TestLiveRun(t *testing.T) {
	live := newTestLive()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		live.Run(ctx)
	}()
	cancel()
	<-ended
	if live.Sampling().Searched != 0 {
		t.Error("something was searched")
	}
}

// TestOverhead: a search uses up the time that it takes, and what it costs elsewhere: collecting its garbage, waking, cold caches.
func TestOverhead(t *testing.T) {
	l := newTestLive()
	l.search(sampleOf(t, "Order", document1K(1), policy.Verdict{Action: policy.Seal}))
	if took := time.Duration(l.counts.took.Load()); took <= 0 || l.budget.saved != -4*took {
		t.Errorf("a search of %s leaves %s of the budget", took, l.budget.saved)
	}
}
