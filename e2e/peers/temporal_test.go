package peers

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestStartTemporal starts the server on a file, asks it for a namespace, and stops it. Nothing may be left running.
func TestStartTemporal(t *testing.T) {
	ctx := t.Context()
	db := filepath.Join(t.TempDir(), "temporal.db")
	p, err := StartTemporal(ctx, TemporalOptions{
		DBFile:           db,
		Namespaces:       []string{"clinic-prod", "claims"},
		UI:               true,
		DynamicConfig:    map[string]any{"frontend.sendRawWorkflowHistory": true},
		SearchAttributes: map[string]string{"Ward": "Keyword"},
		Log:              testLog{t},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop() })
	if p.UIAddress == "" {
		t.Error("no address of the Web UI")
	}
	conn, err := grpc.NewClient(p.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := workflowservice.NewWorkflowServiceClient(conn).DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: "claims"})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetNamespaceInfo().GetName() != "claims" {
		t.Errorf("namespace %q", got.GetNamespaceInfo().GetName())
	}
	if p.Version == "" {
		t.Error("no server version")
	}
	began := time.Now()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %s", time.Since(began).Round(time.Millisecond))
	assertGone(t, p)
	b, err := os.ReadFile(db)
	if err != nil || !bytes.Contains(b, []byte("clinic-prod")) {
		t.Errorf("the database file does not hold the namespace: %d bytes, %v", len(b), err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}

// TestTemporalEndsWithItsParent closes the pipe that a parent holds, as its death would.
func TestTemporalEndsWithItsParent(t *testing.T) {
	p, err := StartTemporal(t.Context(), TemporalOptions{Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop() })
	p.stdin.Close()
	select {
	case <-p.Done():
	case <-time.After(stopTime):
		t.Fatal("still running after its standard input closed")
	}
	assertGone(t, p)
}

// TestStartTemporalReportsFailure requires the server's own words when it can't start, not a time-out.
func TestStartTemporalReportsFailure(t *testing.T) {
	l, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p, err := StartTemporal(ctx, TemporalOptions{Port: l.Addr().(*net.TCPAddr).Port, Log: testLog{t}})
	if err == nil {
		p.Stop()
		t.Fatal("it started on a port that is taken")
	}
	if !bytes.Contains([]byte(err.Error()), []byte("address already in use")) {
		t.Errorf("the error does not say why: %v", err)
	}
}

func assertGone(t *testing.T, p *Process) {
	t.Helper()
	if c, err := net.DialTimeout("tcp", p.Address, time.Second); err == nil {
		c.Close()
		t.Errorf("something still listens on %s", p.Address)
	}
	if alive(p.PID()) {
		t.Errorf("process %d is still there", p.PID())
	}
}

// testLog writes to the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}
