package operator

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

const rulesOfLogs = `package temporal
request contains {"action": "deny", "reason": "not here"} if input.workflow.id == "denied"
response contains {"action": "open"}
`

// fixed matches what a fixed message does not hold: names, numbers and places.
var fixed = regexp.MustCompile(`[0-9]{2,}|"|/tmp|\borders\b|%!`)

func TestLogs(t *testing.T) {
	t.Parallel()
	scenario(t, "9.1", "an hour of trouble in a second", func(s *site) {
		u := newUnopenable(s)
		for range 3 {
			for _, w := range ways {
				w.call(u, u.tampered)
			}
			u.does("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"},
				blackbox.Message(&workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t"), WorkflowExecution: execution,
					ActivityId: "1", Input: payloads(u.tampered)}))
		}
		for _, line := range u.proxy.log.Lines() {
			message := fmt.Sprint(line["msg"])
			s.want(!fixed.MatchString(message), "the message %q holds what belongs into fields", message)
			if line["level"] == "INFO" {
				continue
			}
			for _, field := range []string{"method", "caller"} {
				s.want(line[field] != nil, "a line lacks %s: %v", field, line)
			}
			if method, _ := line["method"].(string); !strings.HasPrefix(method, "codec-server/") {
				s.want(line["namespace"] == "orders", "a line has no namespace: %v", line)
			}
			_, old := line["rpc"]
			s.want(!old, "a line has a field of another name: %v", line)
		}
	})
	scenario(t, "9.2", "one broken worker, and another beside it", func(s *site) {
		s.write("policy.rego", rulesOfLogs)
		s.write("first.token", "first-token-of-sixteen-bytes")
		s.write("second.token", "second-token-of-sixteen-bytes")
		p := s.serve(`
listeners:
  - address: 127.0.0.1:0
    callers: {token: {tokens: [
      {file: "${dir}/first.token", subject: first, namespaces: [orders]},
      {file: "${dir}/second.token", subject: second, namespaces: [orders]}]}}
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
policy: {file: "${dir}/policy.rego"}
`)
		c, err := blackbox.Dial(p.address)
		s.ok(err)
		s.Cleanup(c.Close)
		denied := blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: "orders", SignalName: "s",
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "denied"},
			Input:             payloads(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`1`)})})
		for range 70 {
			for _, token := range []string{"first-token-of-sixteen-bytes", "second-token-of-sixteen-bytes"} {
				a := c.Do(s.Context(), blackbox.Request{Method: "SignalWorkflowExecution", Body: denied, Token: token})
				s.want(a.Code() == "PermissionDenied", "%s %s", a.Code(), a.Status.GetMessage())
			}
		}
		for _, caller := range []string{"token:first", "token:second"} {
			n := p.logged("call refused", "caller", caller, "reason", "denied", "workflow_id", "denied", "namespace", "orders")
			s.want(n == 1, "%d lines about the 70 refused calls of %s, want 1", n, caller)
		}
	})
	longScenario(t, "9.2", "a minute later the next line says how many were left out", func(s *site) {
		u := newUnopenable(s)
		for range 10 {
			ways[2].call(u, u.tampered)
		}
		time.Sleep(61 * time.Second)
		ways[2].call(u, u.tampered)
		s.want(u.proxy.logged("a sealed value does not open", "lines_left_out", "9") == 1, "the number of lines that were left out is not in the log")
	})
	scenario(t, "8.1", "quotes of the documents", func(s *site) {
		quoted, missing, err := harness.QuotedMessages()
		s.ok(err)
		s.want(len(quoted) >= 20, "only %d quotes were found", len(quoted))
		s.want(len(missing) == 0, "%s", strings.Join(missing, "\n"))
	})
}
