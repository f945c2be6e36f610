// Package faults drives the built proxy with a frontend, a machine and callers that do what they should not, and looks at
// what the caller gets, at how often the frontend got the call, and if the proxy is well afterwards.
package faults

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

// patience is how long callers wait here, and slack what a late answer is forgiven on a busy machine.
const (
	patience = 2 * time.Second
	slack    = 2 * time.Second
)

type proxy struct {
	*harness.Proxy
	workflowservice.WorkflowServiceClient
	conn *grpc.ClientConn
}

func startProxy(t *testing.T, upstream, config string, env ...string) *proxy {
	t.Helper()
	p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: t.TempDir(), Upstream: upstream, Extra: config, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	conn := dial(t, p.Address)
	return &proxy{p, workflowservice.NewWorkflowServiceClient(conn), conn}
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func startRequest(size int) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{Namespace: "default", WorkflowId: "order-1",
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: make([]byte, size)}}}}
}

// start starts a workflow, waits no longer than patience for it, and checks that it did not have to.
func (p *proxy) start(t *testing.T, size int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	_, err := p.StartWorkflowExecution(ctx, startRequest(size))
	if took := time.Since(began); took > patience+slack {
		t.Errorf("the call took %v", took)
	}
	return err
}

// well checks that the proxy answers, is ready, and had no fault of its own.
func (p *proxy) well(t *testing.T) {
	t.Helper()
	var err error
	for range 50 {
		if err = p.start(t, 100); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if code, body, err := p.Get("/readyz"); err != nil || code != http.StatusOK {
		t.Errorf("/readyz: %d %s %v", code, body, err)
	}
	_, metrics, err := p.Get("/metrics")
	if err != nil || !strings.Contains(metrics, "\ntemporal_seal_panics_total 0\n") {
		t.Errorf("panics were counted, or metrics cannot be read: %v", err)
	}
	if n := p.metric(t, "temporal_seal_bytes_in_flight"); n != "0" {
		t.Errorf("%s bytes are in flight without a call", n)
	}
}

// metric reads a metric without labels.
func (p *proxy) metric(t *testing.T, name string) string {
	t.Helper()
	_, metrics, err := p.Get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(metrics, "\n") {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return value
		}
	}
	return ""
}

// Whatever goes wrong upstream, the caller learns of it in time, and nothing is sent twice.
func TestUpstreamFaults(t *testing.T) {
	f := startFrontend(t)
	p := startProxy(t, f.address, "")
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			f.play(fault.play)
			err := p.start(t, 3000)
			began, whole := f.arrived()
			f.play(nil)
			st := status.Convert(err)
			t.Logf("%s: %s", st.Code(), st.Message())
			if !strings.Contains(" "+fault.codes+" ", " "+st.Code().String()+" ") {
				t.Errorf("the caller got %v, want %s", err, fault.codes)
			}
			if (whole > 1 || began > 1) && !fault.mayRepeat || began > 2 {
				t.Errorf("the call was sent %d times, %d of them whole", began, whole)
			}
			p.well(t)
		})
	}
}

// What a frontend says it has not looked at is sent once more, and the caller notices nothing.
func TestRepeatsOnlyWhatWasNotLookedAt(t *testing.T) {
	f := startFrontend(t)
	p := startProxy(t, f.address, "")
	first := func(do func(*request)) func(*request) {
		return func(r *request) {
			switch {
			case r.nth == 1 && r.phase == headersArrived:
				do(r)
			case r.nth > 1 && r.phase == messageArrived:
				r.answer(nil)
			}
		}
	}
	for name, refuse := range map[string]func(*request){
		"REFUSED_STREAM": func(r *request) { r.rst(http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(r *request) { r.goAway(r.stream - 2) },
	} {
		t.Run(name, func(t *testing.T) {
			f.play(first(refuse))
			if err := p.start(t, 3000); err != nil {
				t.Error(err)
			}
			if began, _ := f.arrived(); began != 2 {
				t.Errorf("the call was sent %d times, want 2", began)
			}
			f.play(nil)
			p.well(t)
		})
	}
	// A GOAWAY that lets the call in, after which nothing comes: it may have happened.
	f.play(func(r *request) {
		if r.phase == messageArrived {
			r.goAway(r.stream)
			time.Sleep(20 * time.Millisecond)
			r.reset()
		}
	})
	err := p.start(t, 3000)
	if began, _ := f.arrived(); status.Code(err) != codes.Unavailable || began != 1 {
		t.Errorf("accepted and not answered: %v, sent %d times", err, began)
	}
	f.play(nil)
	p.well(t)
}

// A slow answer is no fault.
func TestSlowAnswerArrives(t *testing.T) {
	f := startFrontend(t)
	p := startProxy(t, f.address, "")
	f.play(func(r *request) {
		if r.phase == messageArrived {
			go func() {
				r.headers(false, ":status", "200", "content-type", "application/grpc")
				for _, b := range []byte{0, 0, 0, 0, 3, 0x0a, 1, 'r'} {
					time.Sleep(100 * time.Millisecond)
					r.data([]byte{b}, false)
				}
				r.headers(true, "grpc-status", "0")
			}()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if a, err := p.StartWorkflowExecution(ctx, startRequest(10)); err != nil || a.GetRunId() != "r" {
		t.Errorf("%v, %v\n%s", a, err, p.Log)
	}
}

// The frontend is gone, comes back at the same address, and calls go on without a restart of the proxy.
func TestFrontendRestarts(t *testing.T) {
	f := startFrontend(t)
	p := startProxy(t, f.address, "")
	p.well(t)
	f.stop()
	err := p.start(t, 10)
	if st := status.Convert(err); st.Code() != codes.Unavailable {
		t.Errorf("without a frontend: %v", err)
	}
	f.listen(t, f.address)
	p.well(t)
}

// A host that falls silent without closing its connections holds callers up to their deadlines, and is given up when it
// does not answer pings.
func TestFrontendFallsSilent(t *testing.T) {
	f := startFrontend(t)
	p := startProxy(t, f.address, "")
	p.well(t)
	f.setMute(true)
	if err := p.start(t, 10); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a frontend that says nothing: %v", err)
	}
	f.setMute(false)
	p.well(t)
}
