package policies

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	opens     = "\nresponse contains {\"action\": \"open\"} if input.sealed.namespace == input.namespace\n"
	sealing   = "package temporal\n\nrequest contains {\"action\": \"seal\"}\n" + opens
	passing   = "package temporal\n\nrequest contains {\"action\": \"pass\"}\n" + opens
	nonsense  = "package temporal\n\nrequest contains {\"action\": \"encrypt\"}\n" + opens
	unparsed  = "package temporal\n\nrequest contains {\n"
	callers   = 4
	swaps     = 8
	swapPause = 400 * time.Millisecond
)

// TestReloadUnderLoad swaps the policy below running calls. Each call carries two payloads: both must have been
// decided by one revision. Then come policies that do not load, and change nothing.
func TestReloadUnderLoad(t *testing.T) {
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // the server is not what is tested here
	dir := t.TempDir()
	p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: dir, Upstream: server.Address, Policy: passing})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	e := &example{T: t, namespace: "default", dir: dir, proxy: p, through: client(t, p.Address, nil), direct: client(t, server.Address, nil)}
	file := filepath.Join(dir, "policy.rego")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	forms := make([]map[string]int, callers)
	for i := range callers {
		forms[i] = map[string]int{}
		wg.Go(func() { e.calls(i, forms[i], stop) })
	}
	for i := range swaps {
		swap(t, file, []string{sealing, passing}[i%2])
		time.Sleep(swapPause)
	}
	close(stop)
	wg.Wait()
	total := map[string]int{}
	for _, f := range forms {
		for form, n := range f {
			total[form] += n
		}
	}
	t.Logf("calls by how their payloads were stored: %v", total)
	if len(total) != 2 || total["clear"] == 0 || total["sealed with default"] == 0 {
		t.Errorf("calls were decided by more than one revision, or by one alone: %v", total)
	}

	inForce := e.revision()
	for i, text := range []string{unparsed, nonsense} {
		swap(t, file, text)
		e.eventually("the bad policy is counted", func() bool {
			return metric(t, e, `temporal_seal_policy_reloads_total{outcome="error"}`) > float64(i)
		})
		if now := e.revision(); now != inForce {
			t.Errorf("revision %s is in force, want still %s", now, inForce)
		}
		id := fmt.Sprint("after-bad-", i)
		e.start(id, "Any", value(1))
		if got := form(e.stored(id).input); got != "clear" {
			t.Errorf("after a bad policy an input is stored %s", got)
		}
		if code, page, err := p.Get("/readyz"); err != nil || code != http.StatusOK || !strings.Contains(page, "stays in force") {
			t.Errorf("/readyz says %d, %v: %s", code, err, page)
		}
	}
	if !strings.Contains(p.Log.String(), "new policy refused") {
		t.Error("the log does not report the bad policy")
	}
	swap(t, file, sealing)
	e.eventually("a good policy is taken again", func() bool { return e.revision() != inForce })
}

// calls starts workflows with two payloads each and notes how they were stored.
func (e *example) calls(caller int, forms map[string]int, stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		id := fmt.Sprintf("reload-%d-%d", caller, n)
		request := e.request(id, "Any", value("in"))
		request.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{"user": value("ann")}}
		if _, err := e.through.StartWorkflowExecution(e.context(), request); err != nil {
			e.Errorf("%s: %v", id, err)
			return
		}
		h, err := e.history(e.direct, e.context(), id)
		if err != nil {
			e.Error(err)
			return
		}
		if a, b := form(h.input), form(h.header); a == b {
			forms[a]++
		} else {
			forms[a+" and "+b]++
		}
	}
}

// swap replaces a file as deployment tools do.
func swap(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// revision is that of the policy in force, from /readyz.
func (e *example) revision() string {
	e.Helper()
	_, page, err := e.proxy.Get("/readyz")
	if err != nil {
		e.Fatal(err)
	}
	_, rest, _ := strings.Cut(page, "policy: revision ")
	revision, _, _ := strings.Cut(rest, "\n")
	return revision
}

func (e *example) eventually(what string, ok func() bool) {
	e.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Fatalf("it did not happen: %s", what)
		}
	}
}
