package contract

import (
	"bytes"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// What a rule masks is in nothing that the server gets, not even sealed. The rest is sealed by the other rules.
func TestMaskedMembersAreStoredNowhere(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	sizes := map[int]bool{}
	for _, ssn := range []string{`"CANARY"`, `"CANARY, which is a much longer text than the other one"`} {
		clear := document(`{"name":"NAME","ssn":` + ssn + `,"cards":[{"number":"CANARY"},{"number":7,"of":true}],"ward":"A7"}`)
		got := startedWith(t, r.startWorkflow(t, "masking", "w", "W", clear))
		if bytes.Contains(got.Data, []byte("CANARY")) || bytes.Contains(got.Data, []byte("NAME")) || !bytes.Contains(got.Data, []byte("A7")) {
			t.Errorf("the server gets %s", got.Data)
		}
		equal(t, "a masked document", r.open(t, "masking", got)[0],
			document(`{"name":"NAME","ssn":"***","cards":[{"number":"***"},{"number":0,"of":true}],"ward":"A7"}`))
		sizes[len(got.Data)] = true
	}
	if len(sizes) != 1 {
		t.Error("what the server gets shows how long a masked text was")
	}
	optional := startedWith(t, r.startWorkflow(t, "masking", "w", "Optional", document(`{"ward":"A7"}`)))
	equal(t, "a document without a member that may be missing", r.open(t, "masking", optional)[0], document(`{"ward":"A7"}`))
}

// A payload of which a value might be stored, since it is not where the rule has it, is refused.
func TestPayloadsThatCannotBeMaskedAreRefused(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	for _, other := range []string{`{"SSN":"CANARY","cards":[{"number":"CANARY"}]}`, `{"ssn":"CANARY","cards":[{"no":"CANARY"}]}`, `{"ssn":"CANARY","cards":[]}`,
		`{"ssn":"CANARY","cards":{"a":{"number":"CANARY"}}}`, `{"ssn":"CANARY","ssn":1,"cards":[{"number":"CANARY"}]}`, `"CANARY"`, `CANARY`} {
		e := r.startWorkflow(t, "masking", "w", "W", document(other))
		e.refused(t, "PermissionDenied")
		if text := e.Status.GetMessage(); !strings.Contains(text, "cannot be masked") || strings.Contains(text, "CANARY") {
			t.Errorf("%s: %s", other, text)
		}
	}
	sealed := startedWith(t, r.startWorkflow(t, "sealing", "w", "W", document(`{"ssn":"CANARY","cards":[{"number":1}]}`)))
	r.startWorkflow(t, "masking", "w", "Optional", sealed).refused(t, "PermissionDenied")
}

// A rule that masks, and that reads a fact which the request does not contain, might hold.
func TestMasksOverAnUnknownFactAreRefused(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	r.signal(t, "masking", "w", document(`{"ssn":"CANARY"}`)).refused(t, "PermissionDenied")
}

// A codec server does not know the path of a payload, so it cannot know whether a rule masks that has a guard on it: it encodes nothing under such
// a rule, as docs/policy.md says. A rule that leaves out what is encoded there has it sealed with the value in it.
func TestCodecServerRefusesUnderGuardedMasks(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	clear := document(`{"ssn":"CANARY","ward":"A7"}`)
	for _, namespace := range []string{"maskpath", "maskrpc"} {
		equal(t, "a document by a call, in "+namespace, r.open(t, namespace, startedWith(t, r.startWorkflow(t, namespace, "w", "W", clear)))[0],
			document(`{"ssn":"***","ward":"A7"}`))
	}
	refused := r.codecServer(t, page{path: "/encode", headers: in("maskpath"), payloads: []*commonpb.Payload{clear}})
	if refused.code != http.StatusForbidden || strings.Contains(refused.text, "CANARY") {
		t.Errorf("under a rule with a guard on the path, the codec server answers %d: %s", refused.code, refused.text)
	}
	sealed := r.codecServer(t, page{path: "/encode", headers: in("maskrpc"), payloads: []*commonpb.Payload{clear}})
	if sealed.code != http.StatusOK || len(sealed.payloads) != 1 {
		t.Fatalf("under a rule that leaves out what is encoded, the codec server answers %d: %s", sealed.code, sealed.text)
	}
	r.isSealed(t, "a document under a rule that leaves out what is encoded", "maskrpc", sealed.payloads[0], clear)
}

// What a worker has seen in clear, its replay must not see masked: a policy that may do this does not load.
func TestMaskOfWhatAWorkerHasDoesNotLoad(t *testing.T) {
	t.Parallel()
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	for guard, loads := range map[string]bool{
		`input.workflow.type == "W"`:                                          false,
		`input.payload.kind == "marker"; input.workflow.type == "W"`:          false,
		`input.payload.kind == "heartbeat"; input.activity.type == "A"`:       false,
		`input.payload.kind == "memo"; input.workflow.type == "W"`:            false,
		`input.payload.kind == "update"; input.workflow.id == "w"`:            false,
		`input.payload.kind == "header"; input.workflow.type == "W"`:          false,
		`input.payload.kind == "search_attribute"`:                            false,
		`input.payload.kind == "failure"; input.rpc != "Encode"`:              false,
		`input.payload.kind == "metadata"`:                                    false,
		`input.payload.kind == "details"`:                                     false,
		`input.payload.kind == "reason"`:                                      false,
		`input.payload.kind == "text"`:                                        false,
		`input.payload.kind in {"input", "result", "signal", "query"}`:        true,
		`input.payload.kind == "memo"; input.rpc == "StartWorkflowExecution"`: true,
	} {
		file := filepath.Join(t.TempDir(), "policy.rego")
		if err := replace(file, openAll+"\nrequest contains {\"action\": \"mask\", \"fields\": [\"/ssn\"]} if { "+guard+" }\n"); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(bin, "check", "--policy", file).CombinedOutput()
		if (err == nil) != loads || !loads && !strings.Contains(string(out), "the action mask is not for this payload") {
			t.Errorf("%s: %v\n%s", guard, err, out)
		}
	}
}
