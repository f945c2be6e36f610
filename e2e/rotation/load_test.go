package rotation

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// load is workers and clients on several proxies, in one namespace.
type load struct {
	*testing.T
	namespace string
	clients   []client.Client

	mu     sync.Mutex
	ids    []string
	failed []string
}

const queue = "load"

func startLoad(t *testing.T, namespace string, proxies ...*harness.Proxy) *load {
	l := &load{T: t, namespace: namespace}
	quiet := sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1})))
	for _, p := range proxies {
		c, err := client.Dial(client.Options{HostPort: p.Address, Namespace: namespace, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		w := worker.New(c, queue, worker.Options{MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentActivityTaskPollers: 2})
		w.RegisterWorkflowWithOptions(echoes, workflow.RegisterOptions{Name: "echoes"})
		w.RegisterActivity(echo)
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		l.clients = append(l.clients, c)
	}
	return l
}

func echo(_ context.Context, text string) (string, error) { return text + ".", nil }

// echoes hands its input from activity to activity, with pauses that let the keys change in between.
func echoes(ctx workflow.Context, text string) (string, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	for range 3 {
		if err := workflow.ExecuteActivity(ctx, echo, text).Get(ctx, &text); err != nil {
			return "", err
		}
		if err := workflow.Sleep(ctx, time.Second); err != nil {
			return "", err
		}
	}
	return text, nil
}

// run starts workflows until stop closes, each through another proxy than the one that is asked for the result.
func (l *load) run(stop <-chan struct{}) {
	var wg sync.WaitGroup
	for n := 0; ; n++ {
		select {
		case <-stop:
			wg.Wait()
			return
		case <-time.After(150 * time.Millisecond):
		}
		wg.Go(func() {
			id := fmt.Sprint("load-", n)
			if err := l.one(id, l.clients[n%len(l.clients)], l.clients[(n+1)%len(l.clients)]); err != nil {
				l.mu.Lock()
				l.failed = append(l.failed, id+": "+err.Error())
				l.mu.Unlock()
			}
			l.mu.Lock()
			l.ids = append(l.ids, id)
			l.mu.Unlock()
		})
	}
}

func (l *load) one(id string, through, back client.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	want := "the secret of " + id
	if _, err := through.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: queue}, "echoes", want); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	var got string
	if err := back.GetWorkflow(ctx, id, "").Get(ctx, &got); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if got != want+"..." {
		return fmt.Errorf("result %q", got)
	}
	return nil
}

// complete checks that every task was done once, and that every payload opens through each of some fresh proxies, whose
// caches hold nothing yet.
func (l *load) complete(fresh ...*harness.Proxy) {
	l.Helper()
	for _, f := range l.failed {
		l.Error(f)
	}
	lost, unreadable, read := 0, 0, 0
	for _, p := range fresh {
		c := connect(l.T, p.Address)
		for _, id := range l.ids {
			h, err := c.GetWorkflowExecutionHistory(l.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: l.namespace,
				Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
			if err != nil {
				unreadable++
				l.Errorf("history of %s: %v", id, err)
				continue
			}
			for _, e := range lostTasks(h.History) {
				lost++
				l.Logf("%s lost a task: %v", id, e)
			}
			raw, err := proto.Marshal(h)
			if err != nil {
				l.Fatal(err)
			}
			read += strings.Count(string(raw), "the secret of "+id)
			unreadable += strings.Count(string(raw), "/sealed.v1")
		}
	}
	l.Logf("rotation: %d workflows, %d failed, %d lost tasks, %d payloads read, %d unreadable", len(l.ids), len(l.failed), lost, read, unreadable)
	if lost > 0 || unreadable > 0 || len(l.ids) < 50 || read < 8*len(l.ids)*len(fresh) {
		l.Error("something was lost, or there was too little load to tell")
	}
}

// lostTasks returns the events of what a worker was handed and the server did not get back. A workflow task that no worker asked for in
// time was not handed to any: a machine with too much to do has those as well.
func lostTasks(h *historypb.History) (lost []*historypb.HistoryEvent) {
	for _, e := range h.Events {
		switch e.EventType {
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT:
			if e.GetWorkflowTaskTimedOutEventAttributes().TimeoutType != enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START {
				lost = append(lost, e)
			}
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED, enumspb.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT, enumspb.EVENT_TYPE_ACTIVITY_TASK_FAILED:
			lost = append(lost, e)
		case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED:
			if e.GetActivityTaskStartedEventAttributes().Attempt > 1 {
				lost = append(lost, e)
			}
		}
	}
	return lost
}

func rotateMaterial(t *testing.T, s *kmsstub.Server, id string) {
	t.Helper()
	c := kms.New(kms.Options{BaseEndpoint: aws.String(s.URL), Region: region, Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")})
	if _, err := c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
}

// taken waits until a proxy has taken up a change of its config.
func taken(t *testing.T, p *harness.Proxy, times int) {
	t.Helper()
	eventually(t, "the config is taken up", func() error {
		_, page, err := p.Get("/metrics")
		if err == nil && !strings.Contains(page, fmt.Sprintf(`temporal_seal_config_reloads_total{outcome="ok"} %d`, times)) {
			return fmt.Errorf("not yet: %s", p.Log)
		}
		return err
	})
}

// TestRotationUnderLoad changes everything that can be changed about keys below running workers on two proxies: data keys
// by age, the KMS key's material, and the KMS key, step by step as docs/keys.md says.
func TestRotationUnderLoad(t *testing.T) {
	startServer(t, "load")
	s := startKMS(t)
	beforeID, before := kmsKey(s, "before")
	afterID, after := kmsKey(s, "after")
	const shortLife = "data_key_life: 10s\n"
	stored := startKeyStore(t)
	proxies := []*harness.Proxy{
		startProxy(t, harness.ProxyOptions{Keys: stored.keys(before), Extra: shortLife + stored.extra}),
		startProxy(t, harness.ProxyOptions{Keys: stored.keys(before), Extra: shortLife + stored.extra}),
	}
	l := startLoad(t, "load", proxies...)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); l.run(stop) }()
	pause := func() {
		time.Sleep(3 * time.Second)
		stored.crash()
		time.Sleep(2 * time.Second)
	}
	pause()
	rotateMaterial(t, s, beforeID)
	pause()
	step := func(n int, active, openOnly string) {
		for _, p := range proxies {
			text := configOf(t, p)
			head, rest, _ := strings.Cut(text, "keys:\n")
			_, extra, _ := strings.Cut(rest, shortLife)
			rewriteConfig(t, p, fmt.Sprintf("%skeys:\n  - {name: default, active: %q, open_only: [%q], envelope: %s}\n%s%s", head, active, openOnly, stored.form, shortLife, extra))
		}
		for _, p := range proxies {
			taken(t, p, n)
		}
	}
	step(1, before, after)
	pause()
	step(2, after, before)
	pause()
	rotateMaterial(t, s, afterID)
	pause()
	close(stop)
	<-done
	fresh := startProxy(t, harness.ProxyOptions{Keys: stored.keys(after, before), Extra: stored.extra})
	l.complete(fresh)
	stored.complete(fresh)

	found, code := scan(t, proxies[0], "--namespace", "load")
	if code != 0 {
		t.Errorf("the scan ends with exit code %d: %+v", code, found.Namespaces["load"].Reasons)
	}
	dataKeys := 0
	for _, e := range found.Namespaces["load"].Sealed {
		dataKeys += len(e.DataKeys)
	}
	if found.under("load", "alias/before") == 0 || found.under("load", "alias/after") == 0 || dataKeys < 6 {
		t.Errorf("%d data keys under both KMS keys is no rotation: %+v", dataKeys, found.Namespaces["load"].Sealed)
	}
	if clear := found.Namespaces["load"].Clear; len(clear) > 0 {
		t.Errorf("clear payloads: %v", clear)
	}
	t.Logf("%d data keys, %d and %d envelopes under the two KMS keys", dataKeys, found.under("load", "alias/before"), found.under("load", "alias/after"))
}

// TestReleasesMixed runs the previous release and this one side by side, as during an upgrade or its undoing: each opens
// what the other sealed, while both work on the same workflows.
func TestReleasesMixed(t *testing.T) {
	previous := previousProxy(t)
	startServer(t, "mixed")
	s := startKMS(t)
	_, uri := kmsKey(s, "shared")
	l := startLoad(t, "mixed", startProxy(t, harness.ProxyOptions{Keys: keys(uri)}), startProxy(t, harness.ProxyOptions{Keys: keys(uri), Binary: previous}))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); l.run(stop) }()
	time.Sleep(12 * time.Second)
	close(stop)
	<-done
	l.complete(startProxy(t, harness.ProxyOptions{Keys: keys(uri)}), startProxy(t, harness.ProxyOptions{Keys: keys(uri), Binary: previous}))
}

// TestDataKeyIsRevoked names a data key in the config of a running proxy: what it sealed stays shut from then on, and
// sealing goes on with another.
func TestDataKeyIsRevoked(t *testing.T) {
	startServer(t, "revoke")
	s := startKMS(t)
	_, uri := kmsKey(s, "revoked")
	p := startProxy(t, harness.ProxyOptions{Keys: keys(uri)})
	c := connect(t, p.Address)
	store(t, c, "revoke", "leaked")
	before, _ := scan(t, p, "--namespace", "revoke")
	leaked := ""
	for id := range before.Namespaces["revoke"].Sealed[0].DataKeys {
		leaked = id
	}
	if _, page, err := p.Get("/keys"); err != nil || !strings.Contains(page, leaked) {
		t.Errorf("/keys does not show the data key that is in use: %v, %s", err, page)
	}
	history := func(id string) error {
		_, err := c.GetWorkflowExecutionHistory(t.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "revoke",
			Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
		return err
	}
	if err := history("leaked"); err != nil {
		t.Fatal(err)
	}
	rewriteConfig(t, p, configOf(t, p)+"revoked_data_keys: ["+leaked+"]\n")
	taken(t, p, 1)
	if err := history("leaked"); err == nil || !strings.Contains(err.Error(), "revoked_data_keys") {
		t.Errorf("what the leaked key sealed still opens: %v", err)
	}
	store(t, c, "revoke", "next")
	if err := history("next"); err != nil {
		t.Error(err)
	}
	after, _ := scan(t, p, "--namespace", "revoke")
	if n := len(after.Namespaces["revoke"].Sealed[0].DataKeys); n != 2 {
		t.Errorf("%d data keys, want a fresh one beside the leaked one", n)
	}
}
