package snapshots

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// statuses returns the status of a proxy with all that it can report, while it serves and while it drains, and what its survey reports.
func statuses(t *testing.T, u *upstream) (status []string, survey string) {
	t.Helper()
	dir := t.TempDir()
	if err := harness.WriteCertificate(dir, "server", time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	proxy, conn := start(t, harness.ProxyOptions{Dir: dir, Upstream: u.address, Policy: policy, Candidate: candidate,
		Extra: fmt.Sprintf("survey: {rate: 10000, cpu_percent: 50}\ncodec_server: {address: %q, tls: {cert_file: server.crt, key_file: server.key}}\ndrain: {delay: 20s}\n", freeAddress(t))})
	client := workflowservice.NewWorkflowServiceClient(conn)
	for _, id := range []string{"counted", "denied"} {
		_, err := client.StartWorkflowExecution(t.Context(), startRequest("default", id))
		if (err != nil) != (id == "denied") {
			t.Fatal(err)
		}
	}
	if _, err := client.GetWorkflowExecutionHistory(t.Context(), historyRequest("default", "counted")); err != nil {
		t.Fatal(err)
	}
	until(t, "the survey has found something", func() bool {
		r := startRequest("default", "counted")
		r.Input.Payloads[0] = text("jane@example.org")
		if _, err := client.StartWorkflowExecution(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		_, text, err := proxy.Get("/survey")
		survey = text
		return err == nil && strings.Contains(text, `"what"`)
	})
	for _, name := range []string{"policy.rego", "candidate.rego"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("package temporal\n\nrequest contains {"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var serving string
	until(t, "both policies are stale", func() bool {
		_, text, err := proxy.Get("/status")
		serving = text
		return err == nil && strings.Count(text, `"error":`) == 2
	})
	if err := syscall.Kill(proxy.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	untilDraining(t, proxy)
	_, draining, err := proxy.Get("/status")
	if err != nil {
		t.Fatal(err)
	}
	return []string{serving, draining}, survey
}
