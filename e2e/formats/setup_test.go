// Package formats moves running workflows onto the proxy and off it: between workers with a codec of their own, workers
// behind the proxy, and workers with the product's codec, on a real Temporal server.
package formats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/codec"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	namespace = "default"
	secret    = "CANARY-Ada-Lovelace"
)

var server *peers.Process

func TestMain(m *testing.M) {
	code := 1
	err := func() (err error) {
		if server, err = harness.StartTemporal(context.Background(), peers.TemporalOptions{Namespaces: []string{namespace}}); err != nil {
			return err
		}
		code = m.Run()
		return server.Stop()
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	harness.RemoveProxy()
	os.Exit(code)
}

// site is a proxy with its files.
type site struct {
	*testing.T
	dir   string
	proxy *harness.Proxy
	raw   workflowservice.WorkflowServiceClient // at the server itself
	queue string
}

// newSite starts a proxy. A config that is given takes the place of the usual one; {dir}, {server} are filled in.
func newSite(t *testing.T, policy, extra, config string, env ...string) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir(), queue: t.Name()}
	fill := strings.NewReplacer("{dir}", s.dir, "{server}", server.Address).Replace
	o := harness.ProxyOptions{Dir: s.dir, Upstream: server.Address, Policy: policy, Extra: fill(extra), Env: env}
	s.write("codec.key", "test-key-test-key-test-key-test!\n")
	s.write("token", "a-worker")
	if config != "" {
		s.write("config.yaml", fill(config))
		o.Args = []string{"--config", filepath.Join(s.dir, "config.yaml")}
	}
	var err error
	if s.proxy, err = harness.StartProxy(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", s.proxy.Log)
		}
		s.proxy.Kill() // what a drain does is tested elsewhere
	})
	conn, err := grpc.NewClient(server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.ok(err)
	t.Cleanup(func() { _ = conn.Close() })
	s.raw = workflowservice.NewWorkflowServiceClient(conn)
	return s
}

func (s *site) write(name, text string) {
	s.Helper()
	s.ok(os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
}

func (s *site) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// codec is the product's, with the proxy's key.
func (s *site) codec() *codec.Codec {
	s.Helper()
	c, err := codec.New(s.Context(), codec.Options{Namespace: namespace, Keys: []codec.Key{{Name: "default", Active: "local:" + filepath.Join(s.dir, "default.key")}}})
	s.ok(err)
	s.Cleanup(c.Close)
	return c
}

// dial gives a client as a program has it: with codecs or without, with a token or without.
func (s *site) dial(address, token string, codecs ...converter.PayloadCodec) client.Client {
	s.Helper()
	o := client.Options{HostPort: address}
	if len(codecs) > 0 {
		o.DataConverter = workflow.DataConverterWithoutDeadlockDetection(converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), codecs...))
		o.FailureConverter = temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{DataConverter: o.DataConverter, EncodeCommonAttributes: true})
	}
	if token != "" {
		o.HeadersProvider = header{"authorization": "Bearer " + token}
	}
	return s.dialWith(o)
}

func (s *site) dialWith(o client.Options) client.Client {
	s.Helper()
	o.Namespace, o.Logger = namespace, sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	c, err := client.DialContext(s.Context(), o)
	s.ok(err)
	s.Cleanup(c.Close)
	return c
}

type header map[string]string

func (h header) GetHeaders(context.Context) (map[string]string, error) { return h, nil }

// admission takes a patient in, waits for a signal, and returns both.
func admission(ctx workflow.Context, patient string) (string, error) {
	err := workflow.SetQueryHandler(ctx, "chart", func() (string, error) { return "", errors.New("no chart of " + patient) })
	if err != nil {
		return "", err
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1}})
	var bed, discharged string
	if err := workflow.ExecuteActivity(ctx, "Bed", patient).Get(ctx, &bed); err != nil {
		return "", err
	}
	err = workflow.ExecuteActivity(ctx, "Fail", patient).Get(ctx, nil)
	if err == nil || !strings.Contains(err.Error(), patient) {
		return "", fmt.Errorf("the activity's failure came as %v", err)
	}
	var note string
	workflow.GetSignalChannel(ctx, "note").Receive(ctx, &note)
	if err := workflow.ExecuteActivity(ctx, "Bed", note).Get(ctx, &discharged); err != nil {
		return "", err
	}
	return bed + "; " + discharged, nil
}

const wanted = "a bed for " + secret + "; a bed for " + secret + " again"

// work runs a worker until the returned func is called.
func (s *site) work(c client.Client) (stop func()) {
	s.Helper()
	w := worker.New(c, s.queue, worker.Options{WorkerStopTimeout: time.Second})
	w.RegisterWorkflowWithOptions(admission, workflow.RegisterOptions{Name: "Admission"})
	w.RegisterActivityWithOptions(func(_ context.Context, who string) (string, error) { return "a bed for " + who, nil }, activity.RegisterOptions{Name: "Bed"})
	w.RegisterActivityWithOptions(func(_ context.Context, who string) error { return errors.New("no place for " + who) }, activity.RegisterOptions{Name: "Fail"})
	s.ok(w.Start())
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			w.Stop()
		}
	}
	s.Cleanup(stop)
	return stop
}

// admit starts the workflow and waits until it waits for its signal.
func (s *site) admit(c client.Client) client.WorkflowRun {
	s.Helper()
	run, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: s.Name(), TaskQueue: s.queue, WorkflowTaskTimeout: 5 * time.Second},
		"Admission", secret)
	s.ok(err)
	deadline := time.Now().Add(40 * time.Second)
	for time.Now().Before(deadline) {
		failed, completed := -1, -1
		for i, e := range s.history() {
			switch e.EventType {
			case enumspb.EVENT_TYPE_ACTIVITY_TASK_FAILED:
				failed = i
			case enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
				completed = i
			}
		}
		if failed >= 0 && completed > failed {
			return run
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.Fatalf("the workflow does not get on: %v", s.history())
	return nil
}

// discharge sends the signal and waits for the result.
func (s *site) discharge(c client.Client) {
	s.Helper()
	s.ok(c.SignalWorkflow(s.Context(), s.Name(), "", "note", secret+" again"))
	s.result(c)
}

func (s *site) result(c client.Client) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 60*time.Second)
	defer cancel()
	var got string
	if err := c.GetWorkflow(ctx, s.Name(), "").Get(ctx, &got); err != nil || got != wanted {
		s.Fatalf("the result is %q, %v\n%v", got, err, s.history())
	}
}

// history is what the server has.
func (s *site) history() []*historypb.HistoryEvent {
	s.Helper()
	h, err := s.raw.GetWorkflowExecutionHistory(s.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: s.Name()}})
	s.ok(err)
	return h.History.Events
}

// hidden checks that the server sees nothing, and that no payload was left in a form that is not among the encodings.
func (s *site) hidden() {
	s.Helper()
	for _, e := range s.history() {
		raw, err := proto.Marshal(e)
		s.ok(err)
		if bytes.Contains(raw, []byte("CANARY")) {
			s.Errorf("event %d, %s, shows the secret", e.EventId, e.EventType)
		}
	}
}
