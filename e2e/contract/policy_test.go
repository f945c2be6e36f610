package contract

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

const sealingRule = `request contains {"action": "seal"} if input.workflow.id == "must-seal"
`

// rules of the namespaces that tests use. The platform's rules let nothing pass and open everything.
var rules = map[string]string{
	"passing":  `request contains {"action": "pass"}` + "\n" + sealingRule,
	"wideopen": `request contains {"action": "pass"}`,
	"foreign":  `request contains {"action": "pass"}`,
	"sealing":  `request contains {"action": "seal"}`,
	"parts":    `request contains {"action": "seal", "fields": ["/token", "/items/*/token"], "missing": "pass"}`,
	"required": `request contains {"action": "seal", "fields": ["/token", "/items/*/token"]}`,
	"masking": `request contains {"action": "mask", "fields": ["/ssn", "/cards/*/number"]} if {
	input.payload.kind == "input"
	input.workflow.type != "Optional"
}

request contains {"action": "mask", "fields": ["/ssn"], "missing": "pass"} if input.payload.kind == "input"

request contains {"action": "mask", "fields": ["/ssn"]} if {
	input.payload.kind == "signal"
	input.workflow.type == "W"
}

request contains {"action": "seal", "fields": ["/name"], "missing": "pass"}
`,
	"maskpath": `request contains {"action": "mask", "fields": ["/ssn"]} if {
	input.payload.kind in {"input", "memo"}
	not contains(input.payload.path, "upserted_memo")
}
`,
	"maskrpc": `request contains {"action": "mask", "fields": ["/ssn"]} if {
	input.rpc != "Encode"
	input.payload.kind in {"input", "memo"}
	not contains(input.payload.path, "upserted_memo")
}
`,
	"clearing": `request contains {"action": "seal", "clear": ["/ward"]}`,
	"strictest": `request contains {"action": "pass"}

request contains {"action": "seal"} if input.workflow.id in {"seal", "deny"}

request contains {"action": "deny", "reason": "RULE-REASON"} if input.workflow.id == "deny"
`,
	"facts": `request contains {"action": "pass"}

request contains {"action": "seal"} if input.workflow.type == "Secret"
`,
	"partfacts": `request contains {"action": "seal", "fields": ["/token"]}

request contains {"action": "seal"} if input.workflow.type == "Secret"
`,
	"content": `request contains {"action": "pass"}

request contains {"action": "seal"} if input.content.json.secret
`,
	"failing": `request contains {"action": "pass"} if value(input.workflow.id)

value(id) := true if startswith(id, "conflict")

value(id) := 7 if endswith(id, "conflict")

request contains {"action": "seal", "key": id} if {
	id := input.workflow.id
	startswith(id, "key-")
}

request contains {"action": concat("-", ["unheard", "of"])} if input.workflow.id == "action"

request contains {"action": "pass"}
`,
	"ranked": `request contains {"action": "seal", "key": "second"}

request contains {"action": "seal", "key": "first"}

response contains {"action": "keep"} if input.sealed.key != "first"
`,
	"readers": `request contains {"action": "seal", "key": input.workflow.id} if input.workflow.id in {"redacted", "kept", "denied"}

response contains {"action": "redact"} if input.sealed.key == "redacted"

response contains {"action": "keep"} if input.sealed.key == "kept"

response contains {"action": "deny", "reason": "RULE-REASON"} if input.sealed.key == "denied"
`,
	"reasons": `request contains {"action": "redact"} if {
	input.payload.kind == "reason"
	input.workflow.id == "redact"
}

request contains {"action": "deny", "reason": "RULE-REASON"} if {
	input.payload.kind == "reason"
	input.workflow.id == "deny"
}
`,
	"attributes": `request contains {"action": "seal"}

request contains {"action": "deny", "reason": "RULE-REASON"} if {
	input.payload.kind == "search_attribute"
	contains(input.content.json, "forbidden")
}
`,
	"references": `request contains {"action": "deny", "reason": "RULE-REASON"} if {
	input.payload.external
	input.workflow.id == "deny"
}
`,
	"accepting": `request contains {"action": "accept"}`,
	"guarded":   `request contains {"action": "deny", "reason": "RULE-REASON"} if input.payload.kind in {"input", "signal"}`,
	"reading":   `response contains {"action": "keep"} if input.workflow.type == "Secret"`,
	"results": `request contains {"action": "deny", "reason": concat(" ", ["RULE-REASON", input.payload.kind])} if input.payload.kind in {"result", "query"}
`,
}

// keyNames are the keys of proxies with these rules, in the order of their rank.
var keyNames = []string{"first", "second", "redacted", "kept", "denied", "default"}

var ruled = shared(func(dir string) (setup, error) {
	var keys strings.Builder
	for _, name := range keyNames {
		fmt.Fprintf(&keys, "  - {name: %s, active: %q}\n", name, "local:"+filepath.Join(dir, name+".key"))
	}
	codecFile := filepath.Join(dir, "codec.key")
	if err := os.WriteFile(codecFile, codecKey, 0o600); err != nil {
		return setup{}, err
	}
	return setup{keys: keys.String(), policy: "package temporal\n\nresponse contains {\"action\": \"open\"}\n", namespaces: rules,
		extra: "codec_server: {address: \"127.0.0.1:0\"}\n" +
			fmt.Sprintf("foreign: [{namespaces: [foreign], format: samples, keys: [{id: test, file: %q}]}]\n", codecFile)}, nil
})

func (r *rig) startWorkflow(t *testing.T, namespace, id, kind string, input *commonpb.Payload) exchange {
	t.Helper()
	return r.send(
		t,
		"StartWorkflowExecution",
		&workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: id,
			WorkflowType: &commonpb.WorkflowType{Name: kind}, Input: list(input)},
	)
}

func startedWith(t *testing.T, e exchange) *commonpb.Payload {
	t.Helper()
	return forwardedAs(t, e, "StartWorkflowExecution", new(workflowservice.StartWorkflowExecutionRequest)).GetInput().GetPayloads()[0]
}

func TestTheStrictestVerdictWins(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	clear := text("CANARY")
	equal(t, "what every rule lets pass", startedWith(t, r.startWorkflow(t, "strictest", "pass", "W", clear)), clear)
	r.isSealed(t, "what one rule seals", "strictest", startedWith(t, r.startWorkflow(t, "strictest", "seal", "W", clear)), clear)
	e := r.startWorkflow(t, "strictest", "deny", "W", clear)
	e.refused(t, "PermissionDenied")
	if !strings.Contains(e.Status.GetMessage(), "RULE-REASON") {
		t.Errorf("the caller is not told the rule's reason: %s", e.Status.GetMessage())
	}
	// Without a verdict it is sealed.
	r.isSealed(t, "what no rule speaks of", "no-rules", startedWith(t, r.startWorkflow(t, "no-rules", "w", "W", clear)), clear)
	// Of two keys the one counts that stands first in the config.
	sealed := startedWith(t, r.startWorkflow(t, "ranked", "w", "W", clear))
	equal(t, "what two rules seal, opened by the name of the first key", r.open(t, "ranked", sealed)[0], clear)
}

func TestPassOverAnUnknownFactSeals(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	clear := text("CANARY")
	equal(t, "an input of a type that may pass", startedWith(t, r.startWorkflow(t, "facts", "w", "Open", clear)), clear)
	r.isSealed(
		t,
		"an input of a type that may not",
		"facts",
		startedWith(t, r.startWorkflow(t, "facts", "w", "Secret", clear)),
		clear,
	)
	for range 2 {
		r.isSealed(t, "a signal, which does not tell the type", "facts", signaled(t, r.signal(t, "facts", "w", clear))[0], clear)
	}
	doc := document(`{"token":"CANARY","ward":"A7"}`)
	if got := startedWith(t, r.startWorkflow(t, "partfacts", "w", "Open", doc)); bytes.Contains(got.Data, []byte("CANARY")) ||
		!bytes.Contains(got.Data, []byte("A7")) {
		t.Errorf("an input of a known type is %s", got.Data)
	}
	if got := signaled(t, r.signal(t, "partfacts", "w", doc))[0]; bytes.Contains(blackbox.Marshal(got), []byte(`"A7"`)) {
		t.Errorf("a signal of an unknown type stays readable in part: %s", got.Data)
	}
}

func TestPassOverUnreadableContentSeals(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	for _, readable := range []string{`{"public":"CANARY"}`, `{"secret":false,"x":1}`, `[1,2]`} {
		clear := document(readable)
		equal(t, "content that may pass", startedWith(t, r.startWorkflow(t, "content", "w", "W", clear)), clear)
	}
	for _, hidden := range []*commonpb.Payload{document(`{"secret":true,"v":"CANARY"}`), document(`{"secret":true,"secret":false,"v":"CANARY"}`),
		document(`{"v":"CANARY"`), document(`{"n":` + strings.Repeat("9", 65) + `,"v":"CANARY"}`), document("{\"v\":\"CANARY\xff\"}"),
		{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: []byte(`{"v":"CANARY"}`)}, {Data: []byte(`{"v":"CANARY"}`)}} {
		r.isSealed(
			t,
			fmt.Sprintf("content %q (%q)", hidden.Data, hidden.Metadata["encoding"]),
			"content",
			startedWith(t, r.startWorkflow(t, "content", "w", "W", hidden)),
			hidden,
		)
	}
}

func TestPolicyErrorsForwardNothing(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	for _, id := range []string{"conflict", "key-none", "action"} {
		r.startWorkflow(t, "failing", id, "W", text("CANARY")).refused(t, "Unavailable")
	}
	r.startWorkflow(t, "failing", "fine", "W", text("public")).want(t, "OK")
}

// One payload that is refused keeps all of its message back, and a list is sealed to its last element.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	e := r.send(
		t,
		"SignalWithStartWorkflowExecution",
		&workflowservice.SignalWithStartWorkflowExecutionRequest{Namespace: "guarded", WorkflowId: "w",
			Header: &commonpb.Header{
				Fields: map[string]*commonpb.Payload{"h": text("CANARY")},
			}, SignalInput: list(text("CANARY"), text("CANARY"))},
	)
	e.refused(t, "PermissionDenied")
	many := []*commonpb.Payload{
		text("CANARY 1"),
		text("CANARY 2"),
		document(`{"CANARY":3}`),
		text("CANARY 4"),
		{Data: []byte("CANARY 5")},
		{},
	}
	got := signaled(t, r.signal(t, "sealing", "w", many...))
	if len(got) != len(many) {
		t.Fatalf("%d payloads became %d", len(many), len(got))
	}
	for i := range many {
		r.isSealed(t, fmt.Sprintf("payload %d of a list", i), "sealing", got[i], many[i])
	}
}

func TestPartsOfDocuments(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	doc := document(`{"token":"CANARY","ward":"A7","items":[{"token":"CANARY"},{"n":1}]}`)
	got := startedWith(t, r.startWorkflow(t, "parts", "w", "W", doc))
	if bytes.Contains(got.Data, []byte("CANARY")) || !bytes.Contains(got.Data, []byte("A7")) {
		t.Errorf("with `fields` it is %s", got.Data)
	}
	equal(t, "with `fields`, opened", r.open(t, "parts", got)[0], doc)
	got = startedWith(t, r.startWorkflow(t, "clearing", "w", "W", doc))
	if bytes.Contains(got.Data, []byte("CANARY")) || !bytes.Contains(got.Data, []byte("A7")) {
		t.Errorf("with `clear` it is %s", got.Data)
	}
	equal(t, "with `clear`, opened", r.open(t, "clearing", got)[0], doc)
	got = startedWith(t, r.startWorkflow(t, "clearing", "w", "W", text("CANARY")))
	if bytes.Contains(got.Data, []byte("CANARY")) {
		t.Errorf("with `clear` a text is %s", got.Data)
	}
	for _, whole := range []*commonpb.Payload{document(`{"token":"CANARY"`), {Data: []byte("CANARY A7")}} {
		r.isSealed(t, "what is no document", "parts", startedWith(t, r.startWorkflow(t, "parts", "w", "W", whole)), whole)
		r.isSealed(t, "what is no document", "clearing", startedWith(t, r.startWorkflow(t, "clearing", "w", "W", whole)), whole)
	}
}

// What a rule names and a document lacks may stand there under another name.
func TestDocumentsWithoutTheFieldsAreSealedWhole(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	fits := document(`{"token":"CANARY","ward":"A7","items":[{"token":"CANARY"},{"n":1}]}`)
	if got := startedWith(t, r.startWorkflow(t, "required", "w", "W", fits)); bytes.Contains(got.Data, []byte("CANARY")) ||
		!bytes.Contains(got.Data, []byte("A7")) {
		t.Errorf("a document with the fields is %s", got.Data)
	}
	count := func(reason string) (n int) {
		_, page := r.admin(t, "/metrics")
		_, after, _ := strings.Cut(page, fmt.Sprintf("temporal_seal_fields_unmatched_total{reason=%q} ", reason))
		if _, err := fmt.Sscan(after, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	notFound, notAnArray := count("not_found"), count("not_an_array")
	for _, other := range []string{`{"Token":"CANARY","items":[{"token":"CANARY"}]}`, `{"token":"CANARY","entries":[{"token":"CANARY"}]}`,
		`{"token":"CANARY","items":[]}`, `{"token":"CANARY","items":[{"tokens":["CANARY"]}]}`, `"CANARY"`} {
		whole := document(other)
		r.isSealed(t, "a document that lacks a field, "+other, "required", startedWith(t, r.startWorkflow(t, "required", "w", "W", whole)), whole)
	}
	whole := document(`{"token":"CANARY","items":{"first":{"token":"CANARY"}}}`)
	r.isSealed(t, "an object for an array", "required", startedWith(t, r.startWorkflow(t, "required", "w", "W", whole)), whole)
	if n, m := count("not_found")-notFound, count("not_an_array")-notAnArray; n != 5 || m != 1 {
		t.Errorf("%d documents without a field and %d without an array are counted, want 5 and 1", n, m)
	}
	// With "missing": "pass" what is there is sealed, and the rest stays readable.
	got := startedWith(t, r.startWorkflow(t, "parts", "w", "W", document(`{"token":"CANARY","ward":"A7"}`)))
	if bytes.Contains(got.Data, []byte("CANARY")) || !bytes.Contains(got.Data, []byte("A7")) {
		t.Errorf("a document without a field that may be missing is %s", got.Data)
	}
}

func TestReadersGetWhatThePolicySays(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	clear := text("CANARY")
	sealed := map[string]*commonpb.Payload{}
	for _, key := range []string{"redacted", "kept", "denied", "open"} {
		sealed[key] = startedWith(t, r.startWorkflow(t, "readers", key, "W", clear))
	}
	// One by one in a description: what is denied stays sealed and hides nothing else.
	e := r.send(
		t,
		"DescribeWorkflowExecution",
		&workflowservice.DescribeWorkflowExecutionRequest{Namespace: "readers", Execution: execution("w")},
		reply(
			"DescribeWorkflowExecution",
			&workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
				Memo: &commonpb.Memo{Fields: sealed}}},
		),
	)
	memo := answered(t, e, new(workflowservice.DescribeWorkflowExecutionResponse)).WorkflowExecutionInfo.Memo.Fields
	equal(t, "a memo that is open to the reader", memo["open"], clear)
	equal(t, "a memo that is kept", memo["kept"], sealed["kept"])
	equal(t, "a memo that is denied", memo["denied"], sealed["denied"])
	if got := memo["redacted"]; proto.Equal(got, sealed["redacted"]) || bytes.Contains(got.Data, []byte("CANARY")) ||
		string(got.Metadata["encoding"]) != "json/plain" {
		t.Errorf("a memo that is redacted came as %v", got)
	}
	// A history comes whole or not at all.
	for key, code := range map[string]string{"open": "OK", "denied": "PermissionDenied"} {
		e := r.send(
			t,
			"GetWorkflowExecutionHistory",
			&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "readers", Execution: execution("w")},
			reply(
				"GetWorkflowExecutionHistory",
				&workflowservice.GetWorkflowExecutionHistoryResponse{History: inputHistory(sealed["open"], sealed[key])},
			),
		)
		if e.Code() != code {
			t.Errorf("a history with a payload that is %s: %s, want %s", key, e.Code(), code)
		}
	}
	bad := proto.CloneOf(sealed["open"])
	bad.Data[len(bad.Data)-1] ^= 1
	e = r.send(
		t,
		"GetWorkflowExecutionHistory",
		&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "readers", Execution: execution("w")},
		reply(
			"GetWorkflowExecutionHistory",
			&workflowservice.GetWorkflowExecutionHistoryResponse{History: inputHistory(sealed["open"], bad)},
		),
	)
	e.want(t, "DataLoss")
	// In a list one bad payload does not hide the good ones.
	e = r.send(
		t,
		"ListWorkflowExecutions",
		&workflowservice.ListWorkflowExecutionsRequest{Namespace: "readers"},
		reply(
			"ListWorkflowExecutions",
			&workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{
				{
					Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": bad}},
				}, {Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": sealed["open"]}}}}},
		),
	)
	l := answered(t, e, new(workflowservice.ListWorkflowExecutionsResponse))
	equal(t, "the bad entry of a list", l.Executions[0].Memo.Fields["m"], bad)
	equal(t, "the good entry of a list", l.Executions[1].Memo.Fields["m"], clear)
}

// A redacted failure keeps a message, and no text of its own.
func TestRedactedFailures(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	e := r.send(
		t,
		"RespondActivityTaskFailedById",
		&workflowservice.RespondActivityTaskFailedByIdRequest{Namespace: "readers", WorkflowId: "redacted", ActivityId: "a",
			Failure: &failurepb.Failure{Message: "CANARY"}},
	)
	sealed := forwardedAs(
		t,
		e,
		"RespondActivityTaskFailedById",
		new(workflowservice.RespondActivityTaskFailedByIdRequest),
	).Failure
	e = r.send(
		t,
		"GetWorkflowExecutionHistory",
		&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "readers", Execution: execution("w")},
		reply(
			"GetWorkflowExecutionHistory",
			&workflowservice.GetWorkflowExecutionHistoryResponse{History: failedHistory(sealed)},
		),
	)
	h := answered(t, e, new(workflowservice.GetWorkflowExecutionHistoryResponse))
	f := h.History.Events[0].GetActivityTaskFailedEventAttributes().Failure
	if f.Message == "" || strings.Contains(f.Message, "CANARY") || f.EncodedAttributes != nil {
		t.Errorf("a redacted failure came as %v", f)
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	terminate := func(id string) exchange {
		return r.send(
			t,
			"TerminateWorkflowExecution",
			&workflowservice.TerminateWorkflowExecutionRequest{
				Namespace:         "reasons",
				WorkflowExecution: execution(id),
				Reason:            "CANARY",
			},
		)
	}
	for id, want := range map[string]string{"pass": "CANARY", "redact": "[redacted]"} {
		if got := forwardedAs(t, terminate(id), "TerminateWorkflowExecution", new(workflowservice.TerminateWorkflowExecutionRequest)).Reason; got != want {
			t.Errorf("workflow %q: the reason was forwarded as %q, want %q", id, got, want)
		}
	}
	terminate("deny").refused(t, "PermissionDenied")
}

func TestSearchAttributesStayReadable(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	begin := func(value string) exchange {
		return r.send(
			t,
			"StartWorkflowExecution",
			&workflowservice.StartWorkflowExecutionRequest{Namespace: "attributes", WorkflowId: "w", Input: list(text("CANARY")),
				SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Field": text(value)}}},
		)
	}
	q := forwardedAs(t, begin("fine"), "StartWorkflowExecution", new(workflowservice.StartWorkflowExecutionRequest))
	equal(t, "a search attribute under a rule that seals", q.SearchAttributes.IndexedFields["Field"], text("fine"))
	r.isSealed(t, "the input beside it", "attributes", q.Input.Payloads[0], text("CANARY"))
	begin("forbidden").refused(t, "PermissionDenied")
	// The shipped policy keeps tokens out of them.
	token := text("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl")
	plain(
		t,
	).send(
		t,
		"StartWorkflowExecution",
		&workflowservice.StartWorkflowExecutionRequest{Namespace: "attributes", WorkflowId: "w",
			SearchAttributes: &commonpb.SearchAttributes{
				IndexedFields: map[string]*commonpb.Payload{"Field": token},
			}},
	).refused(
		t,
		"PermissionDenied",
	)
}

// The server deletes a memo's key whose value is empty, null or []: sealed, the key would stay.
func TestMemoDeletionsPass(t *testing.T) {
	t.Parallel()
	r := plain(t)
	null := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/null")}}
	fields := map[string]*commonpb.Payload{
		"null":   document("null"),
		"empty":  document(""),
		"list":   document("[]"),
		"binary": null,
		"value":  text("CANARY"),
	}
	e := r.send(
		t,
		"RespondWorkflowTaskCompleted",
		&workflowservice.RespondWorkflowTaskCompletedRequest{
			Namespace: "memos",
			TaskToken: []byte("t"),
			Commands: []*commandpb.Command{
				{
					CommandType: enumspb.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES,
					Attributes: &commandpb.Command_ModifyWorkflowPropertiesCommandAttributes{
						ModifyWorkflowPropertiesCommandAttributes: &commandpb.ModifyWorkflowPropertiesCommandAttributes{
							UpsertedMemo: &commonpb.Memo{Fields: fields},
						}},
				}},
		},
	)
	q := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
	got := q.Commands[0].GetModifyWorkflowPropertiesCommandAttributes().UpsertedMemo.Fields
	for _, key := range []string{"null", "empty", "list", "binary"} {
		equal(t, "the deletion of a memo's key by "+key, got[key], fields[key])
	}
	r.isSealed(t, "a memo's value", "memos", got["value"], fields["value"])
}

// A command for another namespace is decided by the rules of both.
func TestCommandsForOtherNamespacesMeetBothPolicies(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	signal := func(from, to string) exchange {
		return r.send(
			t,
			"RespondWorkflowTaskCompleted",
			&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: from, TaskToken: []byte("other-" + from + to),
				Commands: []*commandpb.Command{
					{
						CommandType: enumspb.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
						Attributes: &commandpb.Command_SignalExternalWorkflowExecutionCommandAttributes{
							SignalExternalWorkflowExecutionCommandAttributes: &commandpb.SignalExternalWorkflowExecutionCommandAttributes{
								Namespace:  to,
								Execution:  execution("w"),
								SignalName: "s",
								Input:      list(text("CANARY")),
							}},
					},
				}},
		)
	}
	sent := func(e exchange) *commonpb.Payload {
		q := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
		return q.Commands[0].GetSignalExternalWorkflowExecutionCommandAttributes().Input.Payloads[0]
	}
	equal(t, "a signal within the namespace", sent(signal("passing", "passing")), text("CANARY"))
	r.isSealed(t, "a signal for a namespace that seals", "passing", sent(signal("passing", "sealing")), text("CANARY"))
	for _, q := range signal("passing", "guarded").requests() {
		if q.Name() == "RespondWorkflowTaskCompleted" {
			t.Error("a signal that the rules of the other namespace deny was forwarded")
		}
	}
}
