package server

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

func TestHealthWithoutServiceIsTheProxysOwn(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f)
	h := healthpb.NewHealthClient(p.dial(t))
	ctx := testContext(t)
	check := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := h.Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil || got.GetStatus() != want {
			t.Errorf("got %v, %v, want %v", got.GetStatus(), err, want)
		}
	}
	f.server.Stop() // a frontend that is down must not have its proxies taken out of service
	check(healthpb.HealthCheckResponse_SERVING)
	watch, err := h.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		got, err := watch.Recv()
		if err != nil || got.GetStatus() != want {
			t.Fatalf("watch: got %v, %v, want %v", got.GetStatus(), err, want)
		}
		p.SetReady(false)
	}
	check(healthpb.HealthCheckResponse_NOT_SERVING)
	list, err := h.List(ctx, &healthpb.HealthListRequest{})
	if err != nil || list.GetStatuses()[""].GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("list: got %v, %v", list, err)
	}
}

func TestHealthOfNamedServicesIsTheUpstreams(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	const service = "temporal.api.workflowservice.v1.WorkflowService"
	f.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	h := healthpb.NewHealthClient(startProxy(t, f).dial(t))
	ctx := testContext(t)
	got, err := h.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := h.Check(ctx, &healthpb.HealthCheckRequest{Service: "nope"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: got %v", err)
	}
	watch, err := h.Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		got, err := watch.Recv()
		if err != nil || got.GetStatus() != want {
			t.Fatalf("watch: got %v, %v, want %v", got.GetStatus(), err, want)
		}
		f.health.SetServingStatus(service, healthpb.HealthCheckResponse_NOT_SERVING)
	}
}

// Calls that wait for an issuer's keys are no reason to refuse those that need not wait.
func TestHealthOfNamedServicesWaitsForNoKeys(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	f.health.SetServingStatus("some.Service", healthpb.HealthCheckResponse_SERVING)
	p := startProxy(t, f)
	for range mostWaiting {
		p.waiting <- struct{}{}
	}
	c := healthpb.NewHealthClient(p.dial(t))
	if got, err := c.Check(testContext(t), &healthpb.HealthCheckRequest{Service: "some.Service"}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestReflectionStreamsPass(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	stream, err := reflectionpb.NewServerReflectionClient(startProxy(t, f).dial(t)).ServerReflectionInfo(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // several messages each way over one stream
		if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: "temporal.api.workflowservice.v1.WorkflowService"}}); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got.GetFileDescriptorResponse().GetFileDescriptorProto()); n == 0 {
			t.Errorf("no descriptors in %v", got)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("at the end: got %v", err)
	}
}

func TestWhatIsNotKnownIsNotForwarded(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, func(o *Options) { o.Services = []string{"acme.Extra"} })
	cc := p.dial(t, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{})))
	for method, want := range map[string]string{
		"/temporal.api.workflowservice.v1.WorkflowService/NotYetInvented":        "upgrade the proxy",
		"/temporal.api.operatorservice.v1.OperatorService/NotYetInvented":        "upgrade the proxy",
		"/temporal.server.api.adminservice.v1.AdminService/DescribeMutableState": "not forwarded",
		"/acme.Other/Method":                    "`services`",
		"/grpc.health.v1.Health/NotYetInvented": "upgrade the proxy",
	} {
		err := cc.Invoke(testContext(t), method, new(frame.Frame), new(frame.Frame))
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", method, err)
		}
	}
	if calls := f.calls(); len(calls) > 0 {
		t.Errorf("forwarded: %v", calls)
	}
	err := cc.Invoke(testContext(t), "/acme.Extra/Method", new(frame.Frame), new(frame.Frame))
	if status.Code(err) != codes.Unimplemented || strings.Contains(err.Error(), from) {
		t.Errorf("a service that the config names: got %v, want the upstream's answer", err)
	}
}

func TestAdminServiceCannotBeConfigured(t *testing.T) {
	for _, service := range []string{adminService, "temporal.api.workflowservice.v1.WorkflowService"} {
		f := &frontend{address: "127.0.0.1:1"}
		var o Options
		startProxy(t, f, func(good *Options) { o = *good })
		o.Services = []string{service}
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), service) {
			t.Errorf("%s: got %v", service, err)
		}
	}
}

func TestOperatorAndUntouchedMethodsPass(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	c := startProxy(t, f).client(t)
	got, err := c.GetSystemInfo(testContext(t), &workflowservice.GetSystemInfoRequest{})
	if err != nil || got.GetServerVersion() != "1.2.3" {
		t.Errorf("got %v, %v", got, err)
	}
	if calls := f.calls(); !slices.Equal(calls, []string{workflowservice.WorkflowService_GetSystemInfo_FullMethodName}) {
		t.Errorf("upstream saw %v", calls)
	}
}

func TestDrainLetsCallsEnd(t *testing.T) {
	entered := make(chan struct{})
	release := make(chan struct{})
	f := &frontend{poll: func(context.Context, *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		close(entered)
		<-release
		return &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t")}, nil
	}}
	startFrontend(t, f)
	p := startProxy(t, f)
	c := p.client(t)
	polled := make(chan error, 1)
	go func() {
		_, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
		polled <- err
	}()
	<-entered
	drained := make(chan bool, 1)
	go func() { drained <- p.Drain(testContext(t)) }()
	select {
	case <-drained:
		t.Fatal("the drain ended before the poll")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := <-polled; err != nil {
		t.Errorf("the poll's task was lost: %v", err)
	}
	if !<-drained {
		t.Error("the drain says that it cut calls")
	}
}

func TestDrainCutsAtItsLimit(t *testing.T) {
	entered := make(chan struct{})
	f := &frontend{poll: func(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	startFrontend(t, f)
	p := startProxy(t, f)
	c := p.client(t)
	go func() {
		_, _ = c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}) // is cut
	}()
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if p.Drain(ctx) {
		t.Error("the drain says that all calls ended by themselves")
	}
}

func TestShortDrainShortensPolls(t *testing.T) {
	deadline := make(chan time.Time, 2)
	f := &frontend{}
	f.poll = func(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		d, _ := ctx.Deadline()
		deadline <- d
		return &workflowservice.PollActivityTaskQueueResponse{}, nil
	}
	startFrontend(t, f)
	c := startProxy(t, f, func(o *Options) { o.PollLimit = 5 * time.Second }).client(t)
	if _, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(<-deadline); left > 5*time.Second || left < 3*time.Second {
		t.Errorf("the upstream has %v to answer", left)
	}
}

// A poll that the proxy ends, since it might drain, is one without a task to its worker, not a failed one.
func TestAPollThatIsShortenedEndsEmpty(t *testing.T) {
	f := &frontend{poll: func(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	startFrontend(t, f)
	c := startProxy(t, f, func(o *Options) { o.PollLimit = 100 * time.Millisecond }).client(t)
	if a, err := c.PollActivityTaskQueue(testContext(t), &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); err != nil || len(a.GetTaskToken()) > 0 {
		t.Errorf("got %v, %v", a, err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if _, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the caller's own time limit: %v", err)
	}
}

// Callers without credentials are refused before a byte of their request is waited for, whatever they call. Only the
// proxy's own health is free.
func TestAuthenticationComesFirst(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, func(o *Options) {
		o.Services = []string{"acme.Extra"}
		o.Listeners[0].Identify = auth.Tokens("default", "authorization", nil)
	})
	const check = healthpb.Health_Check_FullMethodName
	for name, c := range map[string]struct {
		method string
		sent   []byte
		code   string
	}{
		"rewritten":            {describeMethod, nil, "16"},
		"too large":            {describeMethod, []byte{0, 255, 255, 255, 255}, "16"},
		"not known":            {"/temporal.api.workflowservice.v1.WorkflowService/NotYetInvented", nil, "16"},
		"passed":               {"/acme.Extra/Method", nil, "16"},
		"not passed":           {"/acme.Other/Method", nil, "16"},
		"reflection":           {reflectionpb.ServerReflection_ServerReflectionInfo_FullMethodName, nil, "16"},
		"health of a service":  {check, []byte{0, 0, 0, 0, 3, 0x0a, 1, 'x'}, "16"},
		"health of the proxy":  {check, []byte{0, 0, 0, 0, 0}, "0"},
		"a large health check": {check, []byte{0, 0, 0, 0x10, 1}, "8"},
	} {
		r := p.raw(t, nil)
		start := time.Now()
		r.call(t, 1, c.method, c.sent, false)
		if code, message := r.status(t); code != c.code || time.Since(start) > healthTime {
			t.Errorf("%s: status %s %s after %v, want %s", name, code, message, time.Since(start), c.code)
		}
	}
	if calls := f.calls(); len(calls) > 0 {
		t.Errorf("forwarded: %v", calls)
	}
	eventually(t, func() bool { return p.admission.inUse() == 0 && p.inside(false) == 0 && p.inside(true) == 0 })
}
