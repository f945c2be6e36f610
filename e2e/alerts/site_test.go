package alerts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// site is one installation: a job of Prometheus with the proxies of a state.
type site struct {
	t       *testing.T
	state   state
	dir     string
	kms     *kmsstub.Server
	key     string // id of the key at the KMS stub
	script  *blackbox.Script
	options harness.ProxyOptions
	proxies []*harness.Proxy
	caller  *blackbox.Client
	holds   atomic.Bool // the state
	begun   atomic.Bool // the state has begun once
	failed  atomic.Bool
	calls   atomic.Int64
}

const (
	fires = 2 * time.Minute  // after its state has begun: rows of subjects' keys are looked for once a minute
	stops = 90 * time.Second // after it has ended: a key is tried again after half a minute
)

var kmsEnv = []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}

func newSite(t *testing.T, s state) *site {
	return &site{t: t, state: s, dir: t.TempDir()}
}

// start starts the proxies and what they need.
func (s *site) start() {
	if err := s.tryStart(); err != nil {
		s.t.Errorf("%s: %v", s.state.alert, err)
	}
}

func (s *site) tryStart() (err error) {
	s.kms = kmsstub.New(kmsstub.Options{})
	s.key = s.kms.CreateKey(false)
	s.kms.SetAlias("alias/default", s.key)
	if err := s.kms.Start("127.0.0.1:0"); err != nil {
		return err
	}
	s.t.Cleanup(s.kms.Close)
	if s.script, err = blackbox.StartScript(); err != nil {
		return err
	}
	s.t.Cleanup(s.script.Stop)
	s.options = harness.ProxyOptions{Dir: s.dir, Upstream: s.script.Address, Env: kmsEnv, Policy: openAll, Extra: s.state.extra,
		Keys: []harness.KeyOption{{Name: "default", Active: "awskms://alias/default?region=eu-central-1&endpoint=" + s.kms.URL}}}
	if s.state.prepare != nil {
		if err := s.state.prepare(s); err != nil {
			return err
		}
	}
	if err := s.add(s.options); err != nil {
		return err
	}
	s.caller, err = blackbox.Dial(s.proxies[0].Address)
	if err == nil {
		s.t.Cleanup(s.caller.Close)
	}
	return err
}

// add starts a proxy.
func (s *site) add(o harness.ProxyOptions) error {
	p, err := harness.StartProxy(s.t.Context(), o)
	if err != nil {
		return err
	}
	s.proxies = append(s.proxies, p)
	s.t.Cleanup(func() {
		p.Kill()
		if s.failed.Load() {
			lines := strings.Split(p.Log.String(), "\n")
			s.t.Logf("the last lines of the proxy of %s:\n%s", s.state.alert, strings.Join(lines[max(0, len(lines)-6):], "\n"))
		}
	})
	return nil
}

// through makes the state, waits for its alert, ends it, and waits until the alert has stopped. The site's calls go on all
// the time.
func (s *site) through(p *harness.Prometheus) error {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	if s.state.calls != nil {
		calls.Go(func() {
			for ctx.Err() == nil {
				s.state.calls(s)
				select {
				case <-ctx.Done():
				case <-time.After(300 * time.Millisecond):
				}
			}
		})
	}
	if firing, err := s.fires(p); err != nil || firing {
		return fmt.Errorf("before its state: fires %v, %v", firing, err)
	}
	if s.state.begin != nil {
		if err := s.state.begin(s); err != nil {
			return err
		}
	}
	s.holds.Store(true)
	s.begun.Store(true)
	if err := s.await(p, fires, true); err != nil {
		return err
	}
	s.holds.Store(false)
	if s.state.end != nil {
		if err := s.state.end(s); err != nil {
			return err
		}
	}
	return s.await(p, stops, false)
}

func (s *site) await(p *harness.Prometheus, limit time.Duration, want bool) error {
	for end := time.Now().Add(limit); ; time.Sleep(500 * time.Millisecond) {
		firing, err := s.fires(p)
		switch {
		case err != nil:
			return err
		case firing == want:
			return nil
		case time.Now().After(end):
			if want {
				return fmt.Errorf("it does not fire within %s", limit)
			}
			return fmt.Errorf("it has not stopped %s after its state", limit)
		}
	}
}

// fires reports whether the alert fires for this installation.
func (s *site) fires(p *harness.Prometheus) (bool, error) {
	found, err := p.Query(s.t.Context(), fmt.Sprintf(`ALERTS{alertstate="firing", alertname=%q, job=%q, namespace=%q}`,
		s.state.alert, s.state.alert, strings.ToLower(s.state.alert)))
	return len(found) > 0, err
}

// does makes a call to which the frontend answers so.
func (s *site) does(method string, request proto.Message, answer blackbox.Answer) blackbox.Response {
	call := s.script.NewCall()
	s.script.Set(call, method, answer)
	defer s.script.Forget(call)
	return s.caller.Do(s.t.Context(), blackbox.Request{Call: call, Method: method, Body: blackbox.Marshal(request), Timeout: 5 * time.Second})
}

// seal returns a payload as the proxy seals it in a namespace.
func (s *site) seal(namespace string) (*commonpb.Payload, error) {
	clear := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"clear text"`)}
	sealed, err := s.script.Seal(s.t.Context(), s.caller, namespace, "", []*commonpb.Payload{clear})
	if err != nil {
		return nil, err
	}
	return sealed[0], nil
}

// sealElsewhere seals in a namespace that has no data key yet, so that the key service is asked.
func (s *site) sealElsewhere() { _, _ = s.seal(fmt.Sprint("namespace-", s.calls.Add(1)%30)) }

// query gives the caller a payload as the result of a query.
func (s *site) query(p *commonpb.Payload) {
	s.does("QueryWorkflow", &workflowservice.QueryWorkflowRequest{Namespace: "orders",
		Execution: &commonpb.WorkflowExecution{WorkflowId: "w"}, Query: &querypb.WorkflowQuery{QueryType: "q"}},
		blackbox.Message(&workflowservice.QueryWorkflowResponse{QueryResult: &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}}))
}

// healthy is an installation with a real Temporal server and nothing wrong.
type healthy struct{ *site }

func newHealthy(t *testing.T) *healthy {
	t.Helper()
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{DBFile: filepath.Join(t.TempDir(), "temporal.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // it is not what is tested here
	h := &healthy{&site{t: t, state: state{alert: healthyJob}, dir: t.TempDir()}}
	for _, name := range []string{"a", "b"} {
		dir := filepath.Join(h.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		err := h.add(harness.ProxyOptions{Dir: dir, Upstream: server.Address,
			Keys:  []harness.KeyOption{{Name: "default", Active: "local:" + filepath.Join(h.dir, "shared.key")}},
			Extra: fmt.Sprintf("audit: {file: %q}\ncodec_server: {address: \"127.0.0.1:0\"}\n", filepath.Join(dir, "audit.jsonl"))})
		if err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// load starts workflows and reads them, by both replicas, and polls for their tasks.
func (h *healthy) load(lasts time.Duration) {
	end := time.Now().Add(lasts)
	var done sync.WaitGroup
	for i, p := range h.proxies {
		conn, err := grpc.NewClient(p.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			h.t.Error(err)
			return
		}
		defer conn.Close()
		client := workflowservice.NewWorkflowServiceClient(conn)
		done.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
				err := oneWorkflow(ctx, client, fmt.Sprintf("w-%d-%d", i, n))
				cancel()
				if err != nil {
					h.t.Errorf("the healthy load: %v", err)
					return
				}
			}
		})
	}
	done.Wait()
}

func oneWorkflow(ctx context.Context, client workflowservice.WorkflowServiceClient, id string) error {
	execution := &commonpb.WorkflowExecution{WorkflowId: id}
	queue := &taskqueuepb.TaskQueue{Name: "healthy"}
	p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"x"`)}
	_, err := client.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{Namespace: "default", WorkflowId: id,
		RequestId: id, WorkflowType: &commonpb.WorkflowType{Name: "W"}, TaskQueue: queue,
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{p}}, Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": p}}})
	if err != nil {
		return err
	}
	_, history := client.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "default", Execution: execution})
	_, list := client.ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: "default", PageSize: 20})
	_, poll := client.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "default", TaskQueue: queue})
	_, end := client.TerminateWorkflowExecution(ctx, &workflowservice.TerminateWorkflowExecutionRequest{Namespace: "default", WorkflowExecution: execution})
	time.Sleep(100 * time.Millisecond)
	return errors.Join(history, list, poll, end)
}

// buildFaulty builds a proxy of another version in which GetClusterInfo panics.
var buildFaulty = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "alerts")
	if err != nil {
		return "", err
	}
	faultyDir = dir
	source := filepath.Join(harness.Root(), "internal", "server", "pipeline.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const at = "\tfor _, step := range steps {\n"
	if strings.Count(string(text), at) != 1 {
		return "", fmt.Errorf("%s: the loop over the steps is not where this test puts a fault", source)
	}
	changed, overlay, bin := filepath.Join(dir, "pipeline.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "proxy")
	fault := "\tif strings.HasSuffix(m.full, \"/GetClusterInfo\") {\n\t\tpanic(\"a fault for a test\")\n\t}\n"
	err = errors.Join(os.WriteFile(changed, []byte(strings.Replace(string(text), at, fault+at, 1)), 0o600),
		os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, source, changed), 0o600))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-ldflags", "-s -w -X main.version=another", "-o", bin, "./cmd/proxy")
	cmd.Dir = harness.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build a proxy with a fault: %w\n%s", err, out)
	}
	return bin, nil
})

var (
	faultyDir string // what buildFaulty has made
	summary   string // the last line of the output, if all tests pass
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if code == 0 && summary != "" {
		fmt.Println(summary)
	}
	harness.RemoveProxy()
	if faultyDir != "" {
		_ = os.RemoveAll(faultyDir)
	}
	os.Exit(code)
}
