// Package leaks proves the product's promise on a real Temporal server: workers and clients that know nothing of
// encryption use every feature that carries user data, through the proxy. Each piece of that data is a canary.
// Every value must arrive unchanged, and no canary may be found in what the server stored, answers directly or
// logs, nor in the proxy's own logs, spans and metrics.
//
// The same scenarios also run without a proxy. There the search has to find every canary, so that finding none
// with the proxy means something.
package leaks

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const namespace = "default"

// total sums up the runs with a proxy, for the last line.
var total struct {
	runs, canaries, found int
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Scenarios spend their time waiting for the server: more of them at once than there are processors.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	code := m.Run()
	harness.RemoveProxy()
	if total.runs > 0 {
		fmt.Printf("canaries: %d of %d found\n", total.found, total.canaries)
	} else if code == 0 {
		fmt.Println("canaries: no run with the proxy was selected")
	}
	os.Exit(code)
}

// scenarios are what a setup runs, by name.
var scenarios = map[string]func(*env){}

func TestLeaks(t *testing.T) {
	t.Run("LocalKey", func(t *testing.T) { run(t, setup{proxy: true}) })
	t.Run("KMS", func(t *testing.T) {
		run(t, setup{proxy: true, kms: true, rawHistory: true, compression: new(client.GrpcCompressionNone)})
	})
}

// TestLeaksAreFound runs the same without a proxy: every canary must be found.
func TestLeaksAreFound(t *testing.T) {
	run(t, setup{})
}

// setup is one way to run all scenarios.
type setup struct {
	proxy       bool
	kms         bool // keys from the KMS stub; else a local key file
	rawHistory  bool // the server answers histories as blobs
	compression client.GrpcCompression
}

func run(t *testing.T, s setup) {
	b := &bench{setup: s, canaries: harness.NewCanaries(), serverLog: harness.NewLog()}
	b.sweep = harness.NewSweep(b.canaries)
	b.startServer(t)
	b.address = b.server.Address
	if s.proxy {
		b.startProxy(t)
		b.address = b.proxy.Address
	}
	b.direct = b.dial(t, b.server.Address, client.ConnectionOptions{
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(b.sweep.Recorder("direct"))},
	})
	b.client = b.dial(t, b.address, client.ConnectionOptions{GrpcCompression: s.compression})
	b.addSearchAttributes(t)

	passed := t.Run("Scenarios", func(t *testing.T) {
		for name, scenario := range scenarios {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				scenario(&env{T: t, bench: b, ctx: ctx, name: name})
			})
		}
	})
	if b.proxy != nil {
		b.asClaimed(t)
	}
	b.collect(t)
	b.judge(t, passed)
}

// bench is what the scenarios of one run share.
type bench struct {
	setup
	canaries  *harness.Canaries
	sweep     *harness.Sweep
	dir       string // the server's database, and nothing else
	server    *peers.Process
	serverLog *harness.Log
	kmsStub   *kmsstub.Server
	collector *harness.Collector
	proxy     *harness.Proxy
	address   string // where clients and workers connect to

	client client.Client // as users do
	direct client.Client // past the proxy; each answer is searched
}

func (b *bench) startServer(t *testing.T) {
	t.Helper()
	b.dir = t.TempDir()
	var err error
	b.server, err = harness.StartTemporal(t.Context(), peers.TemporalOptions{
		DBFile: filepath.Join(b.dir, "temporal.db"), Namespaces: []string{namespace}, Log: b.serverLog,
		DynamicConfig: map[string]any{
			"frontend.sendRawWorkflowHistory":     b.rawHistory,
			"system.enableActivityEagerExecution": true,
			"system.enableEagerWorkflowStart":     true,
			"activity.enableStandalone":           true,
			"nexusoperation.enableStandalone":     true,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stopServer(t) })
}

func (b *bench) stopServer(t *testing.T) {
	if err := b.server.Stop(); err != nil {
		t.Error(err)
	}
}

func (b *bench) startProxy(t *testing.T) {
	t.Helper()
	shipped, err := os.ReadFile("../../policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	if b.collector, err = harness.StartCollector(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.collector.Stop)
	opts := harness.ProxyOptions{Policy: string(shipped) + readableTexts + masking, Dir: t.TempDir(), Upstream: b.server.Address, Env: b.collector.Env(), Args: []string{"--log-level", "debug"},
		Extra: "survey: {rate: 10000, cpu_percent: 50}\n"}
	if b.kms {
		b.kmsStub = kmsstub.New(kmsstub.Options{})
		b.kmsStub.SetAlias("alias/temporal", b.kmsStub.CreateKey(false))
		if err := b.kmsStub.Start("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.kmsStub.Close)
		opts.Keys = []harness.KeyOption{{Name: "default", Active: "awskms://alias/temporal?region=eu-central-1&endpoint=" + b.kmsStub.URL}}
		opts.Env = append(opts.Env, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")
	}
	if b.proxy, err = harness.StartProxy(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stopProxy(t) })
}

func (b *bench) stopProxy(t *testing.T) {
	if err := b.proxy.Stop(); err != nil {
		t.Errorf("the proxy did not end well: %v", err)
	}
}

func (b *bench) dial(t *testing.T, address string, o client.ConnectionOptions) client.Client {
	t.Helper()
	c, err := client.DialContext(t.Context(), b.options(address, o))
	if err != nil {
		t.Fatalf("connect to %s: %v", address, err)
	}
	t.Cleanup(c.Close)
	return c
}

// collect searches everything that there is. The server and the proxy are stopped on the way, so that what they
// write at the end is searched too.
func (b *bench) collect(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient(b.server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(b.sweep.Recorder("direct")), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(128<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := harness.Frontend(ctx, conn, namespace); err != nil {
		t.Error(err)
	}
	// Once while the write-ahead log is full, once after the server closed its database.
	if err := b.sweep.Files(b.dir); err != nil {
		t.Error(err)
	}
	if b.proxy != nil {
		_, metrics, err := b.proxy.Get("/metrics")
		if err != nil {
			t.Error(err)
		}
		b.searchPages(t)
		b.client.Close()
		b.stopProxy(t)
		b.sweep.Bytes("the proxy's metrics", []byte(metrics))
		b.sweep.Bytes("the proxy's log", b.proxy.Log.Bytes())
		b.sweep.Bytes("the proxy's spans", b.collector.Raw())
		if len(b.collector.Raw()) == 0 || len(metrics) == 0 {
			t.Error("the proxy sent no spans or has no metrics: nothing was searched there")
		}
		if !regexp.MustCompile(`(?m)^temporal_seal_survey_payloads_searched_total(\{[^}]*\})? [1-9]`).MatchString(metrics) {
			t.Error("the live survey searched no payload")
		}
		if b.kms {
			for _, call := range b.kmsStub.Calls() {
				b.sweep.Bytes("calls to KMS", []byte(fmt.Sprint(call)))
			}
		}
	}
	b.stopServer(t)
	if err := b.sweep.Files(b.dir); err != nil {
		t.Error(err)
	}
	b.sweep.Bytes("the server's log", b.serverLog.Bytes())
}

// searchPages searches what the proxy shows of itself and of the payloads that its survey looked at.
func (b *bench) searchPages(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/", "/status", "/survey", "/keys", "/readyz"} {
		status, page, err := b.proxy.Get(path)
		if err != nil || status != http.StatusOK || page == "" {
			t.Errorf("%s: status %d, %d bytes, error %v", path, status, len(page), err)
		}
		b.sweep.Bytes("the proxy's page "+path, []byte(page))
	}
}

// judge decides a run: nothing found with a proxy, everything found without.
func (b *bench) judge(t *testing.T, passed bool) {
	found, searched := b.sweep.Count()
	t.Logf("%d of %d canaries found in %d MB", found, b.canaries.Len(), searched>>20)
	if b.proxy != nil {
		total.runs++
		total.found += found
		total.canaries += b.canaries.Len()
		if found > 0 {
			t.Errorf("clear text outside of the workers and clients:\n%s", b.sweep.Report())
		}
		return
	}
	if _, absent := b.sweep.Found(); len(absent) > 0 && passed {
		t.Errorf("the search would not notice these canaries:\n%s", strings.Join(absent, "\n"))
	}
}

// asClaimed checks that a run with a proxy was one: finding nothing would be easy if nothing was sealed, histories came
// in another form, or the keys were from elsewhere.
func (b *bench) asClaimed(t *testing.T) {
	run, err := b.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "as-claimed", TaskQueue: "nobody"}, "Nothing", "input")
	if err != nil {
		t.Fatal(err)
	}
	history, err := b.direct.WorkflowService().GetWorkflowExecutionHistory(t.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: run.GetID()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := history.String(); !strings.Contains(text, "binary/sealed.v1") {
		t.Errorf("the server holds an input that is not sealed: %s", text)
	}
	if got := len(history.RawHistory) > 0; got != b.rawHistory {
		t.Errorf("histories come as blobs: %v, want %v", got, b.rawHistory)
	}
	if b.kms {
		if n := len(b.kmsStub.Calls()); n == 0 || n > 20 {
			t.Errorf("%d calls to KMS: some are needed, but not one for each payload", n)
		}
	}
}
