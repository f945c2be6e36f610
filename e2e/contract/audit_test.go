package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

func slowly(d time.Duration) kmsstub.Fault { return kmsstub.Fault{Delay: d} }

func checkConfig(dir string) (string, error) {
	bin, err := harness.BuildProxy()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "check", "--config", filepath.Join(dir, "contract.yaml"))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Whatever is opened is on record before its answer leaves, without a byte of it.
func TestEveryReadingIsOnRecord(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	r := start(
		t,
		setup{extra: fmt.Sprintf("audit: {file: %q, required: true}\ncodec_server: {address: \"127.0.0.1:0\"}\n", file)},
	)
	sealed := r.seal(t, "audited", text("CANARY"))[0]
	records := func() []map[string]any {
		written, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if strings.Contains(string(written), "CANARY") {
			t.Error("the audit log holds a payload")
		}
		var all []map[string]any
		for line := range strings.Lines(string(written)) {
			m := map[string]any{}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("a record is no JSON: %s", line)
			}
			all = append(all, m)
		}
		return all
	}
	if n := len(records()); n > 0 {
		t.Errorf("%d records before anything was read", n)
	}
	reads := 0
	for name, read := range map[string]func(){
		"query":        func() { r.open(t, "audited", sealed) },
		"task":         func() { r.pollActivity(t, "audited", reply("PollActivityTaskQueue", activityTask("audit-1", sealed))) },
		"codec server": func() { r.codecServer(t, page{headers: in("audited"), payloads: []*commonpb.Payload{sealed}}) },
	} {
		read()
		reads++
		got := records()
		if len(got) != reads {
			t.Fatalf("%s: %d records after %d readings", name, len(got), reads)
		}
		last := fmt.Sprint(got[reads-1])
		for _, want := range []string{"namespace:audited", "verdict:opened", "key:default"} {
			if !strings.Contains(last, want) {
				t.Errorf("%s: the record does not hold %s: %s", name, want, last)
			}
		}
	}
	r.open(t, "another", sealed) // not opened: on record as well
	if got := records(); len(got) != reads+1 ||
		!strings.Contains(fmt.Sprint(got[reads]), "failed") && !strings.Contains(fmt.Sprint(got[reads]), "denied") {
		t.Errorf("a reading that failed left %v", got[min(reads, len(got)-1)])
	}
}

// With `required` nothing is opened that cannot be put on record, and no task is fetched.
func TestWhatCannotBeRecordedIsNotOpened(t *testing.T) {
	t.Parallel()
	r := start(
		t,
		setup{extra: "audit: {file: /dev/full, required: true, wait: 300ms}\ncodec_server: {address: \"127.0.0.1:0\"}\n"},
	)
	sealed := r.seal(t, "audited", text("CANARY"))[0]
	for range 3 {
		got, err := r.Open(t.Context(), r.client, "audited", "", []*commonpb.Payload{sealed})
		if err == nil || !strings.Contains(err.Error(), "Unavailable") {
			t.Errorf("it was opened to %v (%v)", got, err)
		}
	}
	if s := r.codecServer(t, page{headers: in("audited"), payloads: []*commonpb.Payload{sealed}}); s.code != 503 ||
		strings.Contains(s.text, "CANARY") {
		t.Errorf("the codec server answered %d %s", s.code, s.text)
	}
	// Which state the log is in between two tries is left open, but a poll hands out no task.
	for range 3 {
		e := r.do(t, blackbox.Request{Method: "PollActivityTaskQueue", Timeout: 5 * time.Second, Body: blackbox.Marshal(
			&workflowservice.PollActivityTaskQueueRequest{
				Namespace: "audited",
			},
		)}, reply("PollActivityTaskQueue", activityTask("audit-2", sealed)))
		if strings.Contains(string(e.Body), "CANARY") {
			t.Error("a worker was handed a task that is not on record")
		}
	}
	// What opens nothing goes on.
	r.seal(t, "audited", text("CANARY"))
}

// No payload, token or key stands in the log, the metrics or an error.
func TestNothingSecretIsTold(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("SECRET-TOKEN-0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startKMSWith(
		t,
		setup{
			namespaces: rules,
			policy:     openAll,
			extra: fmt.Sprintf(
				"codec_server: {address: \"127.0.0.1:0\", callers: {token: {tokens: [{subject: s, file: %q}]}}}\n",
				token,
			),
			listeners: fmt.Sprintf(
				"  - address: 127.0.0.1:0\n    callers: {token: {tokens: [{subject: s, file: %q}]}}\n",
				token,
			),
		},
		"--log-level",
		"debug",
	)
	r.client.Token = "SECRET-TOKEN-0123456789"
	var told strings.Builder
	note := func(e exchange) {
		fmt.Fprintln(&told, e.Code(), e.Status.GetMessage(), e.Status.GetDetails(), e.Header, e.Trailer)
	}
	sealed := r.seal(t, "sealing", text("CANARY"))[0]
	r.open(t, "sealing", sealed)
	broken := &commonpb.Payload{Metadata: sealed.Metadata, Data: append([]byte("CANARY"), sealed.Data...)}
	note(r.startWorkflow(t, "strictest", "deny", "W", text("CANARY")))
	note(r.startWorkflow(t, "failing", "conflict", "W", text("CANARY")))
	note(r.startWorkflow(t, "failing", "key-none", "W", text("CANARY")))
	note(r.startWorkflow(t, "content", "w", "W", document(`{"secret":`+`"CANARY"`)))
	note(r.send(
		t,
		"GetWorkflowExecutionHistory",
		&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "sealing"},
		reply(
			"GetWorkflowExecutionHistory",
			&workflowservice.GetWorkflowExecutionHistoryResponse{History: inputHistory(broken, sealed)},
		),
	))
	note(r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Body: []byte("CANARY CANARY")}))
	note(r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Token: "SECRET-WRONG"}))
	note(r.do(t, blackbox.Request{Method: "OfANewerServer", Body: []byte("CANARY")}))
	note(
		r.do(
			t,
			blackbox.Request{
				Method:   "SignalWorkflowExecution",
				Metadata: metadata.Pairs("x-secret", "SECRET-HEADER"),
				Body: blackbox.Marshal(
					&workflowservice.SignalWorkflowExecutionRequest{Input: list(text("CANARY"))}),
			},
		),
	)
	for _, p := range []page{{headers: in("sealing"), body: "CANARY"}, {headers: in("sealing", "Authorization", "Bearer SECRET-WRONG"), body: "{}"},
		{headers: in("sealing", "Authorization", "Bearer SECRET-TOKEN-0123456789"), body: `{"payloads":[{"CANARY":1}]}`},
		{headers: in("sealing", "Authorization", "Bearer SECRET-TOKEN-0123456789"), body: `"CANARY"`}} {
		fmt.Fprintln(&told, r.codecServer(t, p).text)
	}
	r.kms.Always(
		"",
		kmsstub.Fault{Error: "AccessDeniedException", Message: "User: arn:aws:iam::111122223333:user/x is not authorized"},
	)
	note(r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Timeout: 5 * time.Second, Body: blackbox.Marshal(
		&workflowservice.SignalWorkflowExecutionRequest{Namespace: "fresh", Input: list(text("CANARY"))})}))
	_, metrics := r.admin(t, "/metrics")
	log := r.proxy.Log.String()
	for _, secret := range []string{"CANARY", "SECRET"} {
		for where, text := range map[string]string{"the log": log, "the metrics": metrics, "an error": told.String()} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s contains a secret: ...%s...", where, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
	for _, place := range []string{"awskms:", "arn:aws", r.kms.URL} { // where keys are kept is the operator's to know
		if strings.Contains(told.String(), place) {
			t.Errorf("an error names %q: %s", place, told.String())
		}
	}
	if !strings.Contains(log, "call refused") {
		t.Error("the log has no line about the refused call")
	}
}
