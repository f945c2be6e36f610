// Package rescue shows what happens to tasks that the proxy cannot open, or whose answers it must not send: on real
// Temporal servers, a present and an older one, with a KMS that fails as a test requires. It holds the table of
// docs/operations.md.
package rescue

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
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
	input.content.json == "forbidden"
}

response contains {"action": "open"}

# Whoever starts or completes is handed no task with it.
response contains {"action": "deny", "reason": "not in this answer"} if input.rpc == "StartWorkflowExecution"

response contains {"action": "deny", "reason": "not in this answer"} if {
	input.rpc == "RespondWorkflowTaskCompleted"
	input.activity.type == "EagerAct"
}
`

// frontend is a server that all tests share, and what they share on it.
type frontend struct {
	*peers.Process
	name   string
	shared func() (*parts, error) // for tests that leave the KMS alone
}

// parts are a KMS and a proxy that had its working key before the KMS can be made to fail.
type parts struct {
	kms   *kmsstub.Server
	proxy *harness.Proxy
}

var servers []*frontend

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests wait for timeouts more than they work.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("12")
	}
	code := 1
	if err := startServers(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	harness.RemoveProxy()
	os.Exit(code)
}

func startServers(run func()) (err error) {
	dir, err := os.MkdirTemp("", "rescue")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	older, err := peers.BuildCLI(context.Background(), os.Stderr)
	if err != nil {
		return err
	}
	for i, binary := range []string{"", older} {
		o := peers.TemporalOptions{Binary: binary, DBFile: filepath.Join(dir, fmt.Sprint(i)), Namespaces: []string{namespace, elsewhere},
			DynamicConfig: map[string]any{"frontend.enableCancelWorkerPollsOnShutdown": true, "system.enableActivityEagerExecution": true}}
		p, err := harness.StartTemporal(context.Background(), o)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.Stop()) }()
		t := &frontend{Process: p, name: p.Version}
		t.shared = sync.OnceValues(func() (*parts, error) { return t.newParts(filepath.Join(dir, t.name)) })
		defer t.stopShared()
		servers = append(servers, t)
	}
	run()
	return nil
}

func (s *frontend) stopShared() {
	if p, err := s.shared(); err == nil {
		p.proxy.Kill() // what a drain does is tested elsewhere
		p.kms.Close()
	}
}

func (s *frontend) newParts(dir string) (*parts, error) {
	kms, err := newKMS()
	if err != nil {
		return nil, err
	}
	p := &parts{kms: kms}
	p.proxy, err = s.newProxy(dir, kms)
	return p, err
}

func (s *frontend) newProxy(dir string, kms *kmsstub.Server) (*harness.Proxy, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return harness.StartProxy(context.Background(), s.options(dir, kms))
}

func (s *frontend) options(dir string, kms *kmsstub.Server) harness.ProxyOptions {
	return harness.ProxyOptions{Dir: dir, Upstream: s.Address, Policy: rego,
		Keys: []harness.KeyOption{{Name: "default", Active: keyIn(kms)}},
		Env:  []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}}
}

func keyIn(kms *kmsstub.Server) string {
	return "awskms://alias/temporal?region=eu-central-1&endpoint=" + kms.URL
}

func newKMS() (*kmsstub.Server, error) {
	kms := kmsstub.New(kmsstub.Options{})
	kms.SetAlias("alias/temporal", kms.CreateKey(false))
	return kms, kms.Start("127.0.0.1:0")
}

// site is what one test works with.
type site struct {
	*testing.T
	*parts
	server *frontend
	client client.Client // through the proxy
	direct client.Client // past it
	id     string        // of its workflow
	queue  string
	limit  time.Duration // of its workflow tasks
	sticky time.Duration // how long they wait on a sticky queue; 0: as the SDK has it
}

// newSite is for tests that leave the KMS alone.
func newSite(t *testing.T, server *frontend) *site {
	t.Helper()
	p, err := server.shared()
	if err != nil {
		t.Fatal(err)
	}
	s := siteOf(t, server, p)
	t.Cleanup(func() {
		for _, line := range p.proxy.Log.Lines() {
			if t.Failed() && line["workflow_id"] == s.id {
				t.Logf("the proxy's log: %v", line)
			}
		}
	})
	s.limit = 2 * time.Second // such tests wait for its end
	return s
}

// newOutage is for tests that make the KMS fail: theirs is no other test's.
func newOutage(t *testing.T, server *frontend) *site {
	t.Helper()
	p, err := server.newParts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", p.proxy.Log)
		}
		p.proxy.Kill()
		p.kms.Close()
	})
	s := siteOf(t, server, p)
	s.warm(p.proxy)
	return s
}

func siteOf(t *testing.T, server *frontend, p *parts) *site {
	t.Helper()
	name := strings.NewReplacer("/", "-", " ", "_", "'", "", ":", "", ",", "", ";", "").Replace(t.Name())
	s := &site{T: t, parts: p, server: server, id: "wf-" + name, queue: "q-" + name, limit: 10 * time.Second}
	s.client, s.direct = s.dial(p.proxy.Address, namespace), s.dial(server.Address, namespace)
	return s
}

// startProxy starts a further proxy on the site's KMS.
func (s *site) startProxy(change ...func(*harness.ProxyOptions)) *harness.Proxy {
	s.Helper()
	o := s.server.options(s.TempDir(), s.kms)
	for _, c := range change {
		c(&o)
	}
	p, err := harness.StartProxy(s.Context(), o)
	s.ok(err)
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("a further proxy's log:\n%s", p.Log)
		}
		p.Kill()
	})
	return p
}

// cold is a client through a proxy that holds a working key of its own and no other.
func (s *site) cold() client.Client {
	s.Helper()
	return s.warm(s.startProxy())
}

// warm is a client through a proxy that has its working key then.
func (s *site) warm(p *harness.Proxy) client.Client {
	s.Helper()
	c := s.dial(p.Address, namespace)
	_, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{TaskQueue: "nobody-" + s.queue}, "None", "warm")
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

// raw is a client without an SDK.
func (s *site) raw(address string) workflowservice.WorkflowServiceClient {
	s.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.ok(err)
	s.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

func (s *site) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) want(ok bool, format string, args ...any) {
	s.Helper()
	if !ok {
		s.Errorf(format, args...)
	}
}

// foreign is an envelope that was sealed in another namespace: whoever writes to the server can plant it.
func (s *site) foreign() *commonpb.Payload {
	s.Helper()
	run, err := s.dial(s.proxy.Address, elsewhere).ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{TaskQueue: "nobody"}, "None", "foreign")
	s.ok(err)
	h := history(s, s.dial(s.server.Address, elsewhere), run.GetID())
	return h[0].GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()[0]
}

// bad is the same as an argument of the SDK's.
func (s *site) bad() converter.RawValue { s.Helper(); return converter.NewRawValue(s.foreign()) }

// work runs a worker on a task queue.
func (s *site) work(c client.Client, queue string, register ...func(worker.Registry)) worker.Worker {
	s.Helper()
	w := worker.New(c, queue, worker.Options{DisableRegistrationAliasing: true, StickyScheduleToStartTimeout: s.sticky,
		MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentActivityTaskPollers: 2})
	for _, r := range register {
		r(w)
	}
	s.ok(w.Start())
	s.Cleanup(w.Stop)
	return w
}

// start starts the site's workflow.
func (s *site) start(c client.Client, kind string, args ...any) client.WorkflowRun {
	s.Helper()
	run, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.id, TaskQueue: s.queue, WorkflowTaskTimeout: s.limit}, kind, args...)
	s.ok(err)
	return run
}

// returns waits for a workflow's result.
func (s *site) returns(run client.WorkflowRun, want string) {
	s.Helper()
	var got string
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	if err := run.Get(ctx, &got); err != nil || got != want {
		s.Fatalf("result %q, %v; want %q", got, err, want)
	}
}

// outage cuts the KMS off for a while.
func (s *site) outage(d time.Duration) {
	s.kms.Always("", kmsstub.Fault{Reset: true})
	time.AfterFunc(d, s.kms.Heal)
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

// happened are the events of a kind in the site's workflow, as the server has them.
func (s *site) happened(kind enumspb.EventType) (events []*historypb.HistoryEvent) {
	s.Helper()
	for _, e := range history(s, s.direct, s.id) {
		if e.EventType == kind {
			events = append(events, e)
		}
	}
	return events
}

// failedTasks counts the workflow tasks that failed, each of which has to tell why.
func (s *site) failedTasks() int {
	s.Helper()
	events := s.happened(enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED)
	for _, e := range events {
		f := e.GetWorkflowTaskFailedEventAttributes().GetFailure()
		s.want(strings.Contains(f.GetMessage(), "temporal-seal: ") || f.GetApplicationFailureInfo().GetType() == "PolicyDenied" || f.GetApplicationFailureInfo().GetType() == "PayloadsTooLarge",
			"a workflow task's failure does not tell why: %v", f)
	}
	return len(events)
}

func (s *site) describe() *workflowservice.DescribeWorkflowExecutionResponse {
	s.Helper()
	d, err := s.direct.DescribeWorkflowExecution(s.Context(), s.id, "")
	s.ok(err)
	return d
}

// pending waits until the workflow's pending activity looks as wanted.
func (s *site) pending(want func(*workflowpb.PendingActivityInfo) bool) (found *workflowpb.PendingActivityInfo) {
	s.Helper()
	s.eventually(func() error {
		d, err := s.direct.DescribeWorkflowExecution(s.Context(), s.id, "")
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

// paused waits until the activity is, by the proxy, with a reason that says what to do.
func (s *site) paused() *workflowpb.PendingActivityInfo {
	s.Helper()
	a := s.pending(func(a *workflowpb.PendingActivityInfo) bool {
		return a.GetState() == enumspb.PENDING_ACTIVITY_STATE_PAUSED
	})
	by := a.GetPauseInfo().GetManual()
	s.want(by.GetIdentity() == "temporal-seal" && strings.HasPrefix(by.GetReason(), "temporal-seal: the worker was not given this task"), "paused by %v", by)
	return a
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
