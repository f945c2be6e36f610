package survey

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	activitypb "go.temporal.io/api/activity/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	exportpb "go.temporal.io/api/export/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/temporalproto"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

// Values that no report may have. The first are found by their form, the others by the name of a member.
var (
	jwt     = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + ".eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"
	planted = []string{"jane@clinic.example", "DE89370400440532013000", jwt, "hunter2hunter2", "Jane Roe", "4111111111111111", "E11.9", "078-05-1120", "+49 30 901820"}
)

func payload(encoding, data string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: []byte(data)}
}

func document(format string, args ...any) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{payload("json/plain", fmt.Sprintf(format, args...))}}
}

// history is one of an admission, with an activity, a signal and a failure.
func history(i int) *historypb.History {
	workflow := &commonpb.WorkflowType{Name: "Admission"}
	return &historypb.History{Events: []*historypb.HistoryEvent{
		{EventId: 1, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{WorkflowType: workflow, WorkflowId: "w-" + planted[0], Identity: "worker",
				Input: document(`{"ward":"3A","iban":"%s","notes":[{"text":"call %s"}],"byPatient":{"%s":{"n":%d}},"card":%s}`, planted[1], planted[8], planted[0], i, planted[5]),
				Memo:  &commonpb.Memo{Fields: map[string]*commonpb.Payload{"ward": payload("json/plain", `"3A"`)}},
				SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{
					"Patient": payload("json/plain", `"`+planted[0]+`"`)}}}}},
		{EventId: 5, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityId: "5", ActivityType: &commonpb.ActivityType{Name: "Fetch"},
				Input: document(`{"id":%d}`, i)}}},
		{EventId: 7, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, Attributes: &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{
			ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{ScheduledEventId: 5,
				Result: document(`{"password":"%s","fullName":"%s","diagnosis":{"code":"%s"},"ok":true,"raw":"{\"ssn\":\"%s\"}","session":"%s"}`, planted[3], planted[4], planted[6], planted[7], jwt)}}},
		{EventId: 9, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
			WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{SignalName: "note", Input: &commonpb.Payloads{
				Payloads: []*commonpb.Payload{payload("binary/protobuf", "\x0a\x13"+planted[0]+"\x00\x10\x01"), payload("binary/encrypted", "x"), payload("binary/null", "")}}}}},
		{EventId: 11, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, Attributes: &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{
			WorkflowExecutionFailedEventAttributes: &historypb.WorkflowExecutionFailedEventAttributes{Failure: &failurepb.Failure{Message: "no bed for " + planted[0]}}}},
	}}
}

// export is a file with n histories.
func export(t *testing.T, n int) []byte {
	t.Helper()
	var all exportpb.WorkflowExecutions
	for i := range n {
		all.Items = append(all.Items, &exportpb.WorkflowExecution{History: history(i)})
	}
	raw, err := proto.Marshal(&all)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// newSurvey returns a survey and its table.
func newSurvey(t *testing.T, o Options) (*Survey, *Table) {
	t.Helper()
	var err error
	if o.Rewriter, err = rewrite.New(rewrite.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}); err != nil {
		t.Fatal(err)
	}
	o.Detector = new(detect.Detector)
	table := new(Table)
	s, err := New(o, table)
	if err != nil {
		t.Fatal(err)
	}
	return s, table
}

// findings lists a report's findings: place, pointer and what, each on a line.
func findings(r *Report) []string {
	var lines []string
	for _, row := range r.Found() {
		for _, f := range row.Findings {
			line := strings.TrimPrefix(row.At.String(), "clinic/") + " " + row.Pointer + ": " + f.What
			if f.InName {
				line += " in a name"
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// TestSurvey finds every planted value in an export, and none of them is in what it writes.
func TestSurvey(t *testing.T) {
	s, table := newSurvey(t, Options{})
	if err := s.File(t.Context(), "clinic", "a.bin", export(t, 120)); err != nil {
		t.Fatal(err)
	}
	r := s.Report(nil, time.Now())
	want := []string{
		"Admission failure message : e-mail address",
		"Admission input /byPatient/{key}: e-mail address in a name",
		"Admission input /card: payment card",
		"Admission input /iban: IBAN",
		"Admission input /iban: bank account",
		"Admission input /notes/*/text: telephone number",
		"Admission signal : e-mail address",
		"Admission/Fetch result /diagnosis: health",
		"Admission/Fetch result /fullName: name of a person",
		"Admission/Fetch result /password: password",
		"Admission/Fetch result /raw: US social security number",
		"Admission/Fetch result /raw: government identifier",
		"Admission/Fetch result /session: JSON Web Token",
	}
	if got := findings(r); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, site := range []string{"history.v1.WorkflowExecutionStartedEventAttributes.workflow_id", "common.v1.SearchAttributes.indexed_fields"} {
		if !slices.ContainsFunc(r.Readable, func(f *Readable) bool { return f.Site == site && f.What == "e-mail address" && f.Count == 120 }) {
			t.Errorf("nothing is found in %s", site)
		}
	}
	if r.Summary.Encoded != 120 || r.Summary.InClear != nil || r.Summary.Stored != 11 || r.Summary.Places != 11 {
		t.Errorf("%+v", r.Summary)
	}
	if first := r.Rows[0].Findings[0]; first.Certainty != detect.Certain || first.Low < 0.9 || first.High != 1 || first.Stored != 120 || first.Clear != nil {
		t.Errorf("the first row is not the greatest risk: %+v", first)
	}
	var written bytes.Buffer
	if err := r.HTML(&written); err != nil {
		t.Fatal(err)
	}
	for _, what := range []any{r, table} {
		if err := json.NewEncoder(&written).Encode(what); err != nil {
			t.Fatal(err)
		}
	}
	for _, value := range planted {
		if bytes.Contains(written.Bytes(), []byte(value)) {
			t.Errorf("the report or the state has the value %q", value)
		}
	}
}

// TestPolicyFromFindings writes a policy that passes its own cases, and leaves none of the findings in clear.
func TestPolicyFromFindings(t *testing.T) {
	s, _ := newSurvey(t, Options{})
	raw := export(t, 120)
	if err := s.File(t.Context(), "clinic", "a.bin", raw); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "policies")
	rules, err := s.WritePolicy(folder)
	if err != nil || rules != 5 { // two for the input of the workflow, since an array may be empty; its memo; input and result of the activity
		t.Fatalf("%d rules: %v", rules, err)
	}
	if _, err := s.WritePolicy(folder); err == nil {
		t.Error("a folder with files is written over")
	}
	o := policy.Options{Shipped: temporalseal.ShippedPolicy, Namespaces: folder, RPCs: rewrite.RPCs(), Unmatched: envelope.Unmatched}
	checked := policy.Check(t.Context(), policy.CheckOptions{Options: o})
	if !checked.OK() || checked.Cases != 4 {
		text, _ := os.ReadFile(filepath.Join(folder, "clinic.rego"))
		t.Fatalf("%+v\n%s", checked, text)
	}
	p, err := policy.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := newSurvey(t, Options{Candidate: p})
	if err := again.File(t.Context(), "clinic", "a.bin", raw); err != nil {
		t.Fatal(err)
	}
	r := again.Report(nil, time.Now())
	if *r.Summary.CandidateClear != 0 || r.Summary.Stored != 11 || r.Summary.InClear != nil {
		t.Errorf("%+v", r.Summary)
	}
	passed := map[string]string{}
	for _, row := range r.Rows {
		if row.Pointer == "" {
			for verdict := range row.Candidate {
				passed[row.At.String()] = verdict
			}
		}
	}
	for place, want := range map[string]string{"clinic/Admission/Fetch input": "pass", "clinic/Admission memo ward": "pass", "clinic/Admission signal": "seal",
		"clinic/Admission input": "seal fields", "clinic/Admission/Fetch result": "seal fields"} {
		if passed[place] != want {
			t.Errorf("%s: %q, want %q", place, passed[place], want)
		}
	}
}

// TestFewPayloadsStaySealed writes no rule that lets a place pass of which few payloads were searched.
func TestFewPayloadsStaySealed(t *testing.T) {
	s, _ := newSurvey(t, Options{})
	if err := s.File(t.Context(), "clinic", "a.bin", export(t, minSearched-1)); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if _, err := s.WritePolicy(folder); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "clinic.rego"))
	if err != nil || bytes.Contains(text, []byte("pass\"")) || bytes.Contains(text, []byte("\"fields\"")) {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestSamples stops reading a type after enough, and says how many it left out.
func TestSamples(t *testing.T) {
	s, table := newSurvey(t, Options{Samples: 10})
	if err := s.File(t.Context(), "clinic", "a.bin", export(t, 30)); err != nil {
		t.Fatal(err)
	}
	if n := table.Types[0]; n.Type != "Admission" || n.Read != 10 || n.Skipped != 20 {
		t.Errorf("%+v", n)
	}
	s.options.Samples = 5
	before := table.Strata[0].Searched
	s.Look(t.Context(), &scan.Answer{Namespace: "clinic", Workflow: started(history(0), "r"),
		Message: &workflowservice.GetWorkflowExecutionHistoryResponse{History: history(0)}})
	if table.Strata[0].Searched != before || table.Strata[0].Payloads != 11 {
		t.Errorf("more payloads were searched than enough: %+v", table.Strata[0])
	}
}

// TestOtherAnswers searches what is not in histories: heartbeats, schedules, standalone activities.
func TestOtherAnswers(t *testing.T) {
	s, _ := newSurvey(t, Options{})
	input := document(`"%s"`, planted[0])
	for _, m := range []proto.Message{
		&workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Memo: &commonpb.Memo{}},
			PendingActivities: []*workflowpb.PendingActivityInfo{{ActivityId: "1", ActivityType: &commonpb.ActivityType{Name: "Beat"}, HeartbeatDetails: input}}},
		&workflowservice.DescribeScheduleResponse{Schedule: &schedulepb.Schedule{Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{
			StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{WorkflowId: "s", WorkflowType: &commonpb.WorkflowType{Name: "Nightly"}, Input: input}}}}},
		&workflowservice.DescribeActivityExecutionResponse{Info: &activitypb.ActivityExecutionInfo{ActivityId: "a", ActivityType: &commonpb.ActivityType{Name: "Alone"}}, Input: input},
		&workflowservice.DescribeNexusOperationExecutionResponse{},
	} {
		s.Look(t.Context(), &scan.Answer{Namespace: "clinic", Message: m})
	}
	s.Look(t.Context(), &scan.Answer{Namespace: "clinic", Message: &commonpb.Payload{}})
	r := s.Report(map[string]*scan.Namespace{"clinic": {Walked: map[string]int{"schedules": 1}, Done: true, Unread: 2, Reasons: []string{"one of the schedules: Internal"}}}, time.Now())
	for _, want := range []string{"clinic/-/Beat heartbeat", "Nightly input", "clinic/-/Alone input"} {
		if !slices.ContainsFunc(findings(r), func(line string) bool { return strings.Contains("clinic/"+line, want) }) {
			t.Errorf("nothing is found at %s: %q", want, findings(r))
		}
	}
	if u := r.Sources[0].Unread; u.Count != 3 || len(u.Reasons) != 2 {
		t.Errorf("%+v", u)
	}
}

// TestManyNames counts the members of an object with many names together, whatever stood under single ones before.
func TestManyNames(t *testing.T) {
	s, table := newSurvey(t, Options{})
	stratum := table.stratum(Place{Namespace: "clinic", Kind: "input"})
	for i := range 200 {
		l := looker{detector: s.options.Detector, stratum: stratum}
		l.data("json/plain", fmt.Appendf(nil, `{"rooms":{"room%s":{"beds":[%d],"phone":"%s"}}}`, strings.Repeat("x", i%60), i, planted[8]))
	}
	rooms := stratum.Root.Members["rooms"]
	if len(rooms.Members) != 0 || rooms.Any.Count != 200 {
		t.Fatalf("%d names, %+v", len(rooms.Members), rooms.Any)
	}
	phone := rooms.Any.Members["phone"]
	if phone.Count != 200 || len(phone.Findings) != 2 || phone.Findings[0].Count != 200 || rooms.Any.Members["beds"].Elements.Count != 200 {
		t.Errorf("%+v", phone)
	}
}

// TestHides has names of members that reports show, and names that they do not.
func TestHides(t *testing.T) {
	for name, want := range map[string]bool{"ward": false, "firstName": false, "line_2": false, "Straße": false, "@type": true, "Jane Roe": true, "P-123456": true,
		"jane@clinic.example": true, strings.Repeat("x", 65): true, jwt: true, "\xff": true} {
		if hides(new(detect.Detector), name) != want {
			t.Errorf("hides(%q) is %v", name, !want)
		}
	}
}

// TestFiles reads histories in each form, and says what is wrong with others without quoting them.
func TestFiles(t *testing.T) {
	one, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(history(0))
	if err != nil {
		t.Fatal(err)
	}
	many, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(&exportpb.WorkflowExecutions{Items: []*exportpb.WorkflowExecution{{History: history(0)}, {History: history(1)}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		data []byte
		want int
		err  string
	}{{one, 1, ""}, {many, 2, ""}, {export(t, 3), 3, ""}, {nil, 0, "empty"}, {[]byte("no " + planted[0]), 0, "neither JSON nor"},
		{[]byte(`{"events":"` + planted[0] + `"}`), 0, "not a history in JSON"}, {[]byte(`{"other":1}`), 0, "no events"}} {
		all, err := readHistories(c.data)
		if len(all) != c.want || (err == nil) != (c.err == "") || err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), planted[0])) {
			t.Errorf("%d histories, %v; want %d, %q", len(all), err, c.want, c.err)
		}
	}
}

// TestState goes on from a file.
func TestState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	state, err := ReadState(file)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newSurvey(t, Options{})
	s.table = state.Table
	s.table.index()
	if err := s.File(t.Context(), "clinic", "a.bin", export(t, 2)); err != nil {
		t.Fatal(err)
	}
	if err := state.Save(file); err != nil {
		t.Fatal(err)
	}
	again, err := ReadState(file)
	if err != nil {
		t.Fatal(err)
	}
	s.table = again.Table
	s.table.index()
	if err := s.File(t.Context(), "clinic", "b.bin", export(t, 3)); err != nil {
		t.Fatal(err)
	}
	if n := again.Table.Types; len(n) != 1 || n[0].Read != 5 {
		t.Errorf("%+v", n[0])
	}
	if got := findings(s.Report(nil, time.Now())); len(got) != 13 {
		t.Errorf("%q", got)
	}
}
