package contract

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// tokenListener is a listener for one token.
func tokenListener(t *testing.T, token string) string {
	file := t.TempDir() + "/token"
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("  - {address: 127.0.0.1:0, callers: {token: {tokens: [{subject: team, file: %q}]}}}\n", file)
}

// TestSilentConnectionsGiveWay: where `limits.connections` is reached, the oldest connection without an identity ends, and
// nobody else's.
func TestSilentConnectionsGiveWay(t *testing.T) {
	t.Parallel()
	r := start(t, setup{listeners: tokenListener(t, ownToken), extra: "limits: {connections: 4}\n"})
	caller := func() *blackbox.Client {
		c, err := blackbox.Dial(r.listeners[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		c.Token = ownToken
		return c
	}
	works := func(c *blackbox.Client) {
		t.Helper()
		a := c.Do(t.Context(), blackbox.Request{Method: "DescribeNamespace", Body: blackbox.Marshal(&workflowservice.DescribeNamespaceRequest{Namespace: "clinic"})})
		if a.Status != nil {
			t.Errorf("a caller with a token: %s %s", a.Code(), a.Status.GetMessage())
		}
	}
	first := caller()
	works(first)
	var silent []net.Conn
	for range 6 {
		c, err := net.Dial("tcp", r.listeners[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	_ = silent[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(silent[0]); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the oldest silent connection stays")
	}
	second := caller()
	works(second)
	works(first)
}

// TestRefusalsAreLoggedSparingly: a flood of one caller's refused calls leaves one line, and a short one. The number of lines left
// out is in the next one, a minute later: internal/x/lograte has a test of it.
func TestRefusalsAreLoggedSparingly(t *testing.T) {
	t.Parallel()
	r := start(t, setup{listeners: tokenListener(t, ownToken)})
	c, err := blackbox.Dial(r.listeners[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	refused := func() {
		a := c.Do(t.Context(), blackbox.Request{Method: "/" + strings.Repeat("y", 3900) + ".S/M"})
		if a.Code() != "Unauthenticated" {
			t.Fatalf("%s %s", a.Code(), a.Status.GetMessage())
		}
	}
	for range 900 {
		refused()
	}
	lines := 0
	for _, line := range r.proxy.Log.Lines() {
		if line["msg"] != "call refused" {
			continue
		}
		lines++
		if method, _ := line["method"].(string); len(method) < 1000 || len(method) > 1200 {
			t.Fatalf("a log line quotes %d bytes of a caller's text", len(method))
		}
	}
	if lines < 1 || lines > 3 {
		t.Errorf("%d lines about 900 refused calls of one caller, want 1 a minute", lines)
	}
}
