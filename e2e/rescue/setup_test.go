// Package rescue shows what becomes of tasks that the proxy cannot open, or whose answers it must not send: on a real
// Temporal server, with a KMS that fails as it is told. It prints the table of docs/task-rescue.md.
package rescue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	namespace = "default"
	elsewhere = "other" // envelopes from here do not open in namespace
)

const rego = `package temporal

request contains {"action": "deny", "reason": "results of this kind stay where they are"} if {
	input.payload.kind == "result"
	input.content.json == "forbidden"
}

response contains {"action": "open"}
`

// world is what all tests share.
var world struct {
	server *peers.Process
	mu     sync.Mutex
	rows   []string
}

func TestMain(m *testing.M) {
	code := 1
	if err := startWorld(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	harness.RemoveProxy()
	os.Exit(code)
}

func startWorld(run func()) error {
	dir, err := os.MkdirTemp("", "rescue")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	world.server, err = harness.StartTemporal(context.Background(), peers.TemporalOptions{
		DBFile: filepath.Join(dir, "temporal.db"), Namespaces: []string{namespace, elsewhere}})
	if err != nil {
		return err
	}
	run()
	if slices.Sort(world.rows); len(world.rows) > 0 {
		fmt.Printf("| task | cause | what the server shows |\n|---|---|---|\n%s\n", strings.Join(world.rows, "\n"))
	}
	return world.server.Stop()
}

// shows adds a line to the table.
func shows(task, cause, what string) {
	world.mu.Lock()
	defer world.mu.Unlock()
	world.rows = append(world.rows, fmt.Sprintf("| %s | %s | %s |", task, cause, what))
}

// site is a KMS and a proxy that had its working key before the KMS can be made to fail.
type site struct {
	*testing.T
	kms    *kmsstub.Server
	proxy  *harness.Proxy
	client client.Client // through the proxy
	direct client.Client // past it
	queue  string
}

func newSite(t *testing.T) *site {
	t.Helper()
	kms := kmsstub.New(kmsstub.Options{})
	kms.SetAlias("alias/temporal", kms.CreateKey(false))
	if err := kms.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kms.Close)
	s := &site{T: t, kms: kms, queue: t.Name()}
	s.proxy = s.startProxy()
	s.client, s.direct = s.dial(s.proxy.Address, namespace), s.dial(world.server.Address, namespace)
	return s
}

func (s *site) startProxy() *harness.Proxy {
	s.Helper()
	p, err := harness.StartProxy(s.Context(), harness.ProxyOptions{Dir: s.TempDir(), Upstream: world.server.Address, Policy: rego,
		Keys: []harness.KeyOption{{Name: "default", Active: "awskms://alias/temporal?region=eu-central-1&endpoint=" + s.kms.URL}},
		Env:  []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("the proxy's log:\n%s", p.Log)
		}
		p.Kill() // what a drain does is tested elsewhere
	})
	return p
}

// cold is a client through a proxy that holds a working key of its own and no other.
func (s *site) cold() client.Client {
	s.Helper()
	c := s.dial(s.startProxy().Address, namespace)
	_, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.Name() + "-warm", TaskQueue: "nobody-" + s.queue}, "None", "warm")
	s.ok(err)
	return c
}

func (s *site) dial(address, namespace string) client.Client {
	s.Helper()
	c, err := client.DialContext(s.Context(), client.Options{HostPort: address, Namespace: namespace,
		Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	s.ok(err)
	s.Cleanup(c.Close)
	return c
}

func (s *site) conn(address string) *grpc.ClientConn {
	s.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.ok(err)
	s.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *site) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// foreign is an envelope that was sealed in another namespace: whoever writes to the server can plant it.
func (s *site) foreign() *commonpb.Payload {
	s.Helper()
	_, err := s.dial(s.proxy.Address, elsewhere).ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.Name(), TaskQueue: "nobody"}, "None", "foreign")
	s.ok(err)
	h := history(s, s.dial(world.server.Address, elsewhere), s.Name())
	return h[0].GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()[0]
}

// work runs a worker on a task queue.
func (s *site) work(c client.Client, queue string, register func(worker.Registry)) {
	s.Helper()
	w := worker.New(c, queue, worker.Options{DisableRegistrationAliasing: true, MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentActivityTaskPollers: 2})
	register(w)
	s.ok(w.Start())
	s.Cleanup(w.Stop)
}

func history(s *site, c client.Client, id string) (events []*historypb.HistoryEvent) {
	s.Helper()
	for i := c.GetWorkflowHistory(s.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		e, err := i.Next()
		s.ok(err)
		events = append(events, e)
	}
	return events
}

func count(events []*historypb.HistoryEvent, kind enumspb.EventType) (n int) {
	for _, e := range events {
		if e.EventType == kind {
			n++
		}
	}
	return n
}

// pending waits until the run's pending activity looks as wanted.
func (s *site) pending(id string, want func(*workflowpb.PendingActivityInfo) bool) (found *workflowpb.PendingActivityInfo) {
	s.Helper()
	s.eventually(func() error {
		d, err := s.direct.DescribeWorkflowExecution(s.Context(), id, "")
		if err != nil {
			return err
		}
		for _, a := range d.GetPendingActivities() {
			if found = a; want(a) {
				return nil
			}
		}
		return fmt.Errorf("pending activities: %v", d.GetPendingActivities())
	})
	return found
}

func (s *site) eventually(check func() error) {
	s.Helper()
	err := errors.New("no time")
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	s.Fatal(err)
}
