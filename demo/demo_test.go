package main

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func payload(encoding, data string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: []byte(data)}
}

// sealedEnvelope is a header as the wire format draws it, and some ciphertext.
func sealedEnvelope(key, namespace string) string {
	b := make([]byte, 31) // before the names
	b[0], b[26], b[28], b[30] = 1, byte(len(key)), byte(len(namespace)), 4
	return string(b) + key + namespace + "WRAP" + strings.Repeat("\xa5", 60)
}

// admission is a history of two events, as the server stores it or as a worker gets it.
func admission(sealed bool) []*historypb.HistoryEvent {
	input, failure := payload("json/plain", `{"token":"x","patient":"Maren Holtby"}`), &failurepb.Failure{Message: "insurer timed out"}
	if sealed {
		input = payload(encodingWhole, sealedEnvelope("jwt", "clinic-prod"))
		failure = &failurepb.Failure{Message: "Encoded failure", EncodedAttributes: payload(encodingWhole, sealedEnvelope("phi", "clinic-prod"))}
	}
	return []*historypb.HistoryEvent{
		{EventId: 1, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
				WorkflowType:     &commonpb.WorkflowType{Name: "Admission"},
				Input:            &commonpb.Payloads{Payloads: []*commonpb.Payload{input}},
				Memo:             &commonpb.Memo{Fields: map[string]*commonpb.Payload{"desk": payload("json/plain", `"emergency"`), "bay": payload("json/plain", `1`)}},
				SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Ward": payload("json/plain", `"4B"`)}},
			}}},
		{EventId: 2, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityType: &commonpb.ActivityType{Name: "CheckCoverage"}}}},
		{EventId: 3, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED, Attributes: &historypb.HistoryEvent_ActivityTaskStartedEventAttributes{
			ActivityTaskStartedEventAttributes: &historypb.ActivityTaskStartedEventAttributes{ScheduledEventId: 2, Attempt: 2, LastFailure: failure}}},
	}
}

// TestComparison requires every payload of both sides under the name that payloads.yaml uses, with its verdict, within the screen's width.
func TestComparison(t *testing.T) {
	for width := minWidth; width <= maxWidth; width += 7 {
		var out bytes.Buffer
		verdicts, err := comparison{admission(true), admission(false)}.show(&screen{w: &out, width: width})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"Admission input": "seal jwt", "Admission memo desk": "pass", "Admission memo bay": "pass", "Admission attribute Ward": "pass",
			"CheckCoverage last failure": "seal phi",
		} {
			if got := verdicts.of[name]; got != want {
				t.Errorf("width %d: %s has verdict %q, want %q", width, name, got, want)
			}
		}
		within(t, width, out.String())
		if text := out.String(); !strings.Contains(text, "B sealed") || !strings.Contains(text, "insurer timed") {
			t.Errorf("width %d: it does not show both sides:\n%s", width, text)
		}
	}
}

func TestComparisonOfDifferentHistories(t *testing.T) {
	if _, err := (comparison{admission(true), admission(false)[:1]}).show(&screen{w: &bytes.Buffer{}, width: 80}); err == nil {
		t.Error("no error although events are missing")
	}
	bare := admission(false)
	bare[0].GetWorkflowExecutionStartedEventAttributes().Input = nil
	if _, err := (comparison{admission(true), bare}).show(&screen{w: &bytes.Buffer{}, width: 80}); err == nil {
		t.Error("no error although a payload is missing")
	}
}

// TestSealedJunk feeds headers that lie about their lengths.
func TestSealedJunk(t *testing.T) {
	whole := sealedEnvelope("phi", "clinic-prod")
	for n := range len(whole) {
		if got := lookAt(slot{payload: payload(encodingWhole, whole[:n])}); !got.sealed() {
			t.Fatalf("cut at %d: %q", n, got.verdict)
		}
	}
}

// TestSearch hides a secret in a file in three ways. It has to be found each time, and not found where it is not.
func TestSearch(t *testing.T) {
	story, secrets, err := newStory()
	if err != nil {
		t.Fatal(err)
	}
	for name, hidden := range map[string]string{
		"as it is":  `{"record_no":"` + story.Lab.Record + `"}`,
		"in base64": base64.StdEncoding.EncodeToString([]byte(`{"record_no":"` + story.Lab.Record + `"}`)),
		"the token": "Bearer " + story.Token,
		"nowhere":   "admission-1",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "temporal.db"), []byte(strings.Repeat("\x00", 4093)+hidden+strings.Repeat("\x00", 4096)), 0o600); err != nil {
			t.Fatal(err)
		}
		sweep := sweepFor(secrets...)
		if err := sweep.Files(dir); err != nil {
			t.Fatal(err)
		}
		if n, _ := sweep.Count(); (n > 0) != (name != "nowhere") {
			t.Errorf("%s: %d found", name, n)
		}
	}
}

func TestToken(t *testing.T) {
	story, _, err := newStory()
	if err != nil {
		t.Fatal(err)
	}
	if user, err := clinic.Verify(story.Token, story.JWTKey); err != nil || user != "dr.okafor@clinic.example" {
		t.Errorf("%q, %v", user, err)
	}
	changed := []byte(story.Token)
	changed[len(changed)/2] ^= 1
	if _, err := clinic.Verify(string(changed), story.JWTKey); err == nil {
		t.Error("a changed token passes")
	}
}

// TestCosts requires the sums of the metrics, over outcomes and operations, and every line within the screen.
func TestCosts(t *testing.T) {
	got := costsOf(`# TYPE temporal_seal_rewrite_duration_seconds histogram
temporal_seal_rewrite_duration_seconds_bucket{direction="request",le="1e-06"} 1
temporal_seal_rewrite_duration_seconds_sum{direction="request"} 0.25
temporal_seal_rewrite_duration_seconds_count{direction="request"} 12
temporal_seal_kms_call_duration_seconds_sum{operation="kms.decrypt",outcome="ok"} 0.5
temporal_seal_kms_call_duration_seconds_count{operation="kms.decrypt",outcome="ok"} 1
temporal_seal_kms_call_duration_seconds_sum{operation="kms.generate_data_key",outcome="ok"} 1.5e-3
temporal_seal_kms_call_duration_seconds_count{operation="kms.generate_data_key",outcome="ok"} 2
`)
	if want := (cost{12, 250 * time.Millisecond}); got["request"] != want {
		t.Errorf("requests: %v, want %v", got["request"], want)
	}
	if want := (cost{3, 501500 * time.Microsecond}); got["kms"] != want {
		t.Errorf("calls to the key service: %v, want %v", got["kms"], want)
	}
	for width := minWidth; width <= maxWidth; width += 5 {
		var out bytes.Buffer
		showCosts(&screen{w: &out, width: width}, got)
		if !strings.Contains(out.String(), "250 ms") || !strings.Contains(out.String(), "messages to the server") {
			t.Errorf("width %d:\n%s", width, out.String())
		}
		within(t, width, out.String())
	}
}

// within requires that no line is wider than the screen.
func within(t *testing.T, width int, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
			t.Errorf("width %d: a line of %d: %q", width, n, line)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		850 * time.Nanosecond: "0 µs", 12 * time.Microsecond: "12 µs", 1500 * time.Microsecond: "1.50 ms",
		44 * time.Millisecond: "44 ms", 1300 * time.Millisecond: "1.3 s",
	} {
		if got := short(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}

func TestFold(t *testing.T) {
	for text, want := range map[string]string{
		"one two three reallylongword": "one two|three|reallylo|ngword",
		`{"a":1,"b":2}`:                `{"a":1,|"b":2}`,
	} {
		if got := strings.Join(fold(text, 8, 0), "|"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := strings.Join(fold(`{"a":1,"b":2,"c":3}`, 8, 2), "|"); got != `{"a":1,|"b":2,"…` {
		t.Error(got)
	}
}

// TestClinicHoldsNoProduct requires that the clinic's programs import nothing of the product: they know nothing of encryption.
func TestClinicHoldsNoProduct(t *testing.T) {
	files, err := filepath.Glob("clinic/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"github.com/temporal-seal/`) {
			t.Errorf("%s imports a package of the product", file)
		}
	}
}

// TestPicture requires the parts with the given titles, in color, as well-formed XML.
func TestPicture(t *testing.T) {
	var printed strings.Builder
	s := &screen{w: &printed, color: true, width: 40}
	s.step("First")
	s.line("left out")
	s.step("Second")
	s.line("   a < b & %s", s.paint(red, "ciphertext"))
	file := filepath.Join(t.TempDir(), "demo.svg")
	if err := writeSVG(file, printed.String(), s.width, "Second"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(text, new(struct{})); err != nil {
		t.Errorf("not XML: %v", err)
	}
	for _, want := range []string{"Second", "a &lt; b &amp; ", `<tspan fill="#ff7b72">ciphertext</tspan>`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("it lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "left out") || strings.Contains(string(text), "\x1b") {
		t.Errorf("it has what it should not:\n%s", text)
	}
	if err := writeSVG(file, printed.String(), s.width, "Third"); err == nil {
		t.Error("a picture without any of the parts was drawn")
	}
}

// TestKeys requires that the config has the keys of the service that --key names.
func TestKeys(t *testing.T) {
	for _, scheme := range []string{"local", "gcpkms", "azurekeyvault"} {
		st, err := newStage(&screen{w: &bytes.Buffer{}, width: 80}, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(st.close)
		if err := st.startKeys(t.Context(), scheme); err != nil {
			t.Fatal(err)
		}
		path, err := harness.WriteConfig(st.options)
		if err != nil {
			t.Fatal(err)
		}
		config, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(config), `active: "`+scheme+":"); n != len(keyNames) {
			t.Errorf("%s: %d keys of %d in\n%s", scheme, n, len(keyNames), config)
		}
	}
	st, err := newStage(&screen{w: &bytes.Buffer{}, width: 80}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.close)
	if err := st.startKeys(t.Context(), "gcp"); err == nil || !strings.Contains(err.Error(), "gcpkms") {
		t.Errorf("an unknown key service: error %v, want one that names those that exist", err)
	}
}
