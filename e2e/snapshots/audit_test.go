package snapshots

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// takeAudit reads histories to which the policy and the keys say different things, with and without a trace.
func takeAudit(t *testing.T) []string {
	u := startUpstream(t)
	collector, err := harness.StartCollector()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	s := newShape()
	verdicts := map[string]bool{}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), "secret")
	for i, env := range [][]string{nil, collector.Env()} {
		codec, file := freeAddress(t), filepath.Join(dir, fmt.Sprintf("audit-%d.jsonl", i))
		proxy, conn := start(t, harness.ProxyOptions{Dir: dir, Upstream: u.address, Policy: policy, Env: env,
			Extra: fmt.Sprintf(`audit: {file: %q, required: true}
codec_server:
  address: %q
  callers: {token: {tokens: [{subject: doctor, file: token, namespaces: ["*"]}]}}
`, file, codec)})
		client := workflowservice.NewWorkflowServiceClient(conn)
		for _, header := range []string{"open", "redact", "keep", "deny"} {
			r := startRequest("default", header)
			r.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{header: text("value")}}
			if _, err := client.StartWorkflowExecution(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			// What the answers hold stands in the records.
			_, _ = client.GetWorkflowExecutionHistory(t.Context(), historyRequest("default", header))
		}
		ofRun := historyRequest("stranger", "open")
		ofRun.Execution.RunId = "run"
		_, _ = client.GetWorkflowExecutionHistory(t.Context(), ofRun)
		poll := &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "default", Identity: "open",
			TaskQueue: &taskqueuepb.TaskQueue{Name: taskQueue}}
		if _, err := client.PollWorkflowTaskQueue(t.Context(), poll); err != nil {
			t.Fatal(err)
		}
		decodeByToken(t, codec)
		if err := proxy.Stop(); err != nil {
			t.Fatal(err)
		}
		records := readFile(t, file)
		s.add(t, records)
		for line := range strings.Lines(records) {
			var record struct{ Payloads []struct{ Verdict string } }
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatal(err)
			}
			for _, p := range record.Payloads {
				verdicts[p.Verdict] = true
			}
		}
	}
	lines := s.facts("record")
	for v := range verdicts {
		lines = append(lines, "record: payloads[].verdict: value "+v)
	}
	slices.Sort(lines)
	return lines
}

// decodeByToken has the codec server seal a payload and open it, for a caller with a name.
func decodeByToken(t *testing.T, address string) {
	t.Helper()
	body := encodeBody
	for _, path := range []string{"/encode", "/decode"} {
		url := "http://" + address + path
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range inNamespace("Authorization", "Bearer secret") {
			request.Header.Set(name, value)
		}
		a, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(a.Body)
		_ = a.Body.Close() // all of it is read
		if err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v, %s", path, a.Status, err, raw)
		}
		body = string(raw)
	}
}
