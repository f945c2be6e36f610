package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

func limited(l Limits) func(*Options) { return func(o *Options) { o.Limits = l } }

// TestMemoryOfAMessageIsCharged: what a message is made of counts among bytes as long as they last. What would not fit by itself is
// too much for good, and what others use is not.
func TestMemoryOfAMessageIsCharged(t *testing.T) {
	const unit = 64 << 10
	a := newAdmission(Limits{Calls: 10, Bytes: 20 * unit, RequestBytes: 2 * unit}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	var leases [2]*lease
	for i := range leases {
		p, err := a.enter(nil, &policy.Caller{Kind: "token", Subject: strconv.Itoa(i)}, false, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		leases[i] = newLease(p)
	}
	if err := leases[0].Charge(10 * copies * unit); err != nil || a.inUse() != 10*unit {
		t.Errorf("%d bytes are in use: %v", a.inUse(), err)
	}
	if err := leases[1].Charge(10 * copies * unit); status.Code(statusOf(err)) != codes.ResourceExhausted || errors.Is(err, rewrite.ErrTooMuch) {
		t.Errorf("what others use: %v", err)
	}
	if err := leases[1].Charge(16 * copies * unit); !errors.Is(err, rewrite.ErrTooMuch) {
		t.Errorf("what does not fit by itself: %v", err)
	}
	if err := leases[0].Charge(-4 * copies * unit); err != nil || a.inUse() != 6*unit {
		t.Errorf("%d bytes are in use: %v", a.inUse(), err)
	}
	if leases[0].giveBack(); a.inUse() != 0 {
		t.Errorf("%d bytes are left", a.inUse())
	}
	if code := codeOf(&rewrite.Error{Kind: rewrite.KindMemory, Err: errors.New("others use it")}); code != codes.ResourceExhausted {
		t.Error(code)
	}
	if err := ofAnswer(&rewrite.Error{Kind: rewrite.KindTooLarge, Err: rewrite.ErrTooMuch}); !tooLarge.MatchString(err.Error()) {
		t.Error(err)
	}
}

func TestRoomIsGivenInTurn(t *testing.T) {
	const unit = 64 << 10 // more than what is let in anyway
	a := newAdmission(Limits{Calls: 10, Bytes: 20 * unit, RequestBytes: 2 * unit}, nil, nil)
	p, err := a.enter(nil, nil, false, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	take := func(n int64, wait time.Duration) bool { _, ok := p.reserve(ctx, n*unit, wait, nil); return ok }
	if !take(10, 0) || !take(8, 0) || take(3, 10*time.Millisecond) {
		t.Fatal("18 of 20 fit, 3 more do not")
	}
	order := make(chan int64, 2)
	wait := func(n int64) {
		go func() {
			if take(n, 5*time.Second) {
				order <- n
			}
		}()
		eventually(t, func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.waiting) == int(n)-5 })
	}
	wait(6)
	wait(7)
	if take(1, 0) {
		t.Error("what is small goes past those who wait")
	}
	p.count(-8 * unit)
	if first := <-order; first != 6 {
		t.Errorf("%d bytes came first", first)
	}
	p.count(-6 * unit)
	<-order
	p.count(-17 * unit)
	if !take(1000, 0) || a.inUse() != 10*unit {
		t.Error("what is larger than half of the limit takes half of it")
	}
}

// One connection, or one caller on many, never gets all of a limit.
func TestOthersFindRoomBesideAGreedyCaller(t *testing.T) {
	l := LimitsFor(1 << 30)
	a := newAdmission(l, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	greedy, other := policy.NewCaller("token", "greedy", "default", nil), policy.NewCaller("token", "other", "default", nil)
	one, two := &connection{account: new(account)}, &connection{account: new(account)}
	for name, c := range map[string]struct {
		conn   func(i int) *connection
		caller *policy.Caller
	}{
		"one connection":          {func(int) *connection { return one }, nil},
		"a caller on many":        {func(int) *connection { return &connection{account: new(account)} }, greedy},
		"a caller on one as well": {func(int) *connection { return two }, greedy},
	} {
		var places []*place
		for i := range l.Calls {
			p, err := a.enter(c.conn(i), c.caller, false, 0, nil)
			if err != nil {
				break
			}
			places = append(places, &p)
		}
		if n := len(places); n != l.Calls*3/4 && n != l.Calls*3/4+1 {
			t.Errorf("%s: %d calls of %d", name, n, l.Calls)
		}
		_, half := places[0].reserve(t.Context(), l.Bytes/2, 0, nil)
		_, quarter := places[1].reserve(t.Context(), l.Bytes/4, 0, nil)
		if _, more := places[2].reserve(t.Context(), l.Bytes/32, 0, nil); !half || !quarter || more {
			t.Errorf("%s: half of the bytes: %v, a quarter: %v, more: %v", name, half, quarter, more)
		}
		p, err := a.enter(&connection{account: new(account)}, other, false, 0, nil)
		if err != nil {
			t.Fatalf("%s: another caller: %v", name, err)
		}
		if _, ok := p.reserve(t.Context(), l.Bytes/32, 0, nil); !ok {
			t.Errorf("%s: no bytes for another caller", name)
		}
		for _, p := range append(places, &p) {
			p.giveBack()
			p.leave(false)
		}
	}
	if a.inUse() != 0 || a.total.used[calls] != 0 {
		t.Errorf("%d bytes and %d calls are left", a.inUse(), a.total.used[calls])
	}
}

// Accounts of callers that are gone do not stay for ever.
func TestAccountsOfCallersAreBounded(t *testing.T) {
	a := newAdmission(LimitsFor(1<<30), nil, nil)
	for i := range 3 * keptAccounts {
		p, err := a.enter(nil, policy.NewCaller("jwt", strconv.Itoa(i), "default", nil), true, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.leave(false)
	}
	if n := len(a.callers); n > keptAccounts {
		t.Errorf("%d accounts", n)
	}
}

func TestHeldPollsLeaveRoomForShortCalls(t *testing.T) {
	h := startHolding(t)
	busy := make(chan struct{})
	var described atomic.Int32
	h.describe = func(context.Context, *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
		described.Add(1)
		<-busy
		return &workflowservice.DescribeWorkflowExecutionResponse{}, nil
	}
	p := startProxy(t, h.frontend, limited(Limits{Connections: 10, Calls: 1, LongPolls: 2, Bytes: MinBytes, RequestBytes: DefaultRequestBytes}))
	c := p.client(t)
	ctx := testContext(t)
	wait := h.polls(t, c, 2)
	_, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || !strings.Contains(st.Message(), "limits.long_polls") {
		t.Errorf("one poll too many: %v", err)
	}
	one := make(chan codes.Code)
	go func() { one <- describeIn(ctx, c, "clinic") }()
	eventually(t, func() bool { return described.Load() == 1 })
	if got := describeIn(ctx, c, "clinic"); got != codes.ResourceExhausted {
		t.Errorf("one call too many: %v", got)
	}
	close(busy)
	if got := <-one; got != codes.OK {
		t.Errorf("a call beside as many polls as there may be: %v", got)
	}
	if got := describeIn(ctx, c, "clinic"); got != codes.OK {
		t.Errorf("afterwards: %v", got)
	}
	close(h.release)
	wait()
}

// What there is no room for is refused before it is read, and forwarded not at all.
func TestMessagesBeyondTheRoomAreRefused(t *testing.T) {
	f, busy := &frontend{}, make(chan struct{})
	var started atomic.Int32
	f.start = func(context.Context, *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
		started.Add(1)
		<-busy
		return &workflowservice.StartWorkflowExecutionResponse{}, nil
	}
	startFrontend(t, f)
	p := startProxy(t, f, limited(Limits{Connections: 10, Calls: 10, LongPolls: 10, Bytes: MinBytes, RequestBytes: DefaultRequestBytes}))
	c := p.client(t)
	ctx := testContext(t)
	big := bytes.Repeat([]byte("x"), 5<<20) // three are more than one caller gets of 16 MiB
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := c.StartWorkflowExecution(ctx, startRequest(big))
			ended <- err
		}()
	}
	eventually(t, func() bool { return started.Load() == 2 })
	_, err := c.StartWorkflowExecution(ctx, startRequest(big))
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || !strings.Contains(st.Message(), "limits.bytes") {
		t.Errorf("one message too many: %v", err)
	}
	if got := describeIn(ctx, c, "clinic"); got != codes.OK {
		t.Errorf("a small call meanwhile: %v", got)
	}
	close(busy)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if _, err := c.StartWorkflowExecution(ctx, startRequest(big)); err != nil || started.Load() != 3 {
		t.Errorf("afterwards: %v, %d forwarded, want 3", err, started.Load())
	}
	_, err = c.StartWorkflowExecution(ctx, startRequest(bytes.Repeat([]byte("x"), MinBytes)))
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || !strings.HasPrefix(st.Message(), "grpc: received message larger than max (") {
		t.Errorf("a message that can never fit: %v", err)
	}
	eventually(t, func() bool { return p.admission.inUse() == 0 })
}

// Answers that were large before wait until there is room.
func TestLargeAnswersWaitForRoom(t *testing.T) {
	f := &frontend{}
	f.query = func(context.Context, *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
		return &workflowservice.QueryWorkflowResponse{QueryResult: payloads(bytes.Repeat([]byte("x"), 3<<20))}, nil
	}
	startFrontend(t, f)
	p := startProxy(t, f, limited(Limits{Connections: 10, Calls: 10, LongPolls: 10, Bytes: MinBytes, RequestBytes: DefaultRequestBytes}))
	c := p.client(t, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(upstream.MaxMessage)))
	query := func() error {
		_, err := c.QueryWorkflow(testContext(t), &workflowservice.QueryWorkflowRequest{Namespace: "clinic"})
		return err
	}
	if err := query(); err != nil {
		t.Fatal(err)
	}
	full := place{in: p.admission, accounts: [3]*account{&p.admission.total}}
	full.count(MinBytes)
	late := make(chan error)
	go func() { late <- query() }()
	select {
	case err := <-late:
		t.Errorf("there was no room, and the answer came: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	full.count(-MinBytes)
	if err := <-late; err != nil {
		t.Error(err)
	}
	full.count(MinBytes)
	if err := query(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("no room for long: %v", err)
	}
	full.count(-MinBytes)
	refused := p.metrics.Traffic.Refusals.List()
	if len(refused) != 1 || refused[0].Method != "QueryWorkflow" || refused[0].Code != "RESOURCE_EXHAUSTED" {
		t.Errorf("the proxy's own refusal is not among its refusals: %v", refused)
	}
	eventually(t, func() bool { return p.admission.inUse() == 0 })
}

// A gRPC without such a stream would have requests counted only after they were read.
func TestRequestsAreReadFromTheWire(t *testing.T) {
	var ok atomic.Bool
	f := &frontend{describe: func(ctx context.Context, _ *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
		_, is := grpc.ServerTransportStreamFromContext(ctx).(wire)
		ok.Store(is)
		return &workflowservice.DescribeWorkflowExecutionResponse{}, nil
	}}
	startFrontend(t, f)
	c := workflowservice.NewWorkflowServiceClient(dial(t, f.address))
	if got := describeIn(testContext(t), c, "clinic"); got != codes.OK || !ok.Load() {
		t.Errorf("%v; the stream below a handler has the methods of wire: %v", got, ok.Load())
	}
}

// Callers keep their connections. Those who say nothing lose theirs, the oldest first, and never have more than half.
func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, limited(Limits{Connections: 4, Calls: 10, LongPolls: 10, Bytes: MinBytes, RequestBytes: DefaultRequestBytes}))
	var callers []workflowservice.WorkflowServiceClient
	caller := func() workflowservice.WorkflowServiceClient {
		c := p.client(t)
		if got := describeIn(testContext(t), c, "clinic"); got != codes.OK {
			t.Fatal(got)
		}
		callers = append(callers, c)
		return c
	}
	silent := func() net.Conn {
		c, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ended := func(c net.Conn) bool {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second)) // a loopback connection
		_, err := io.ReadAll(c)
		return err == nil || !errors.Is(err, os.ErrDeadlineExceeded)
	}
	caller()
	first, second, third := silent(), silent(), silent()
	if !ended(first) {
		t.Error("three of four connections are silent, and all of them stay")
	}
	caller()
	caller()
	if !ended(second) {
		t.Error("a caller did not get the place of a silent connection")
	}
	caller()
	if !ended(third) {
		t.Error("a caller did not get the place of the last silent connection")
	}
	if !ended(silent()) {
		t.Error("a silent connection took the place of a caller")
	}
	for i, c := range callers {
		if got := describeIn(testContext(t), c, "clinic"); got != codes.OK {
			t.Errorf("caller %d lost its connection: %v", i, got)
		}
	}
}

// inside is how many calls, or polls, are being answered.
func (p *proxied) inside(polls bool) int64 {
	p.admission.mu.Lock()
	defer p.admission.mu.Unlock()
	if polls {
		return p.admission.total.used[longPolls]
	}
	return p.admission.total.used[calls]
}

func (p *proxied) closeUnreadAt(now time.Time) {
	for _, l := range p.listeners {
		l.connections.closeUnread(now, p.Server.log)
	}
}

// raw speaks HTTP/2 frame by frame, to do what no client would.
type raw struct {
	net.Conn
	*http2.Framer
}

func (p *proxied) raw(t *testing.T, settings []http2.Setting) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := &raw{conn, http2.NewFramer(conn, conn)}
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a loopback connection
	return r
}

// call begins a call, and sends so much of its request.
func (r *raw) call(t *testing.T, stream uint32, method string, request []byte, end bool, more ...string) {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	headers := append([]string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "proxy",
		"content-type", "application/grpc", "te", "trailers"}, more...)
	for i := 0; i < len(headers); i += 2 {
		if err := enc.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	const most = 16 << 10 // bytes of a frame
	for rest, first := block.Bytes(), true; first || len(rest) > 0; first = false {
		part := rest[:min(len(rest), most)]
		rest = rest[len(part):]
		var err error
		if first {
			err = r.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: part, EndHeaders: len(rest) == 0})
		} else {
			err = r.WriteContinuation(stream, len(rest) == 0, part)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.WriteData(stream, end, request); err != nil {
		t.Fatal(err)
	}
}

// status reads frames until a call has ended.
func (r *raw) status(t *testing.T) (code, message string) {
	t.Helper()
	for {
		f, err := r.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.MetaHeadersFrame); ok && h.StreamEnded() {
			for _, field := range h.Fields {
				switch field.Name {
				case "grpc-status":
					code = field.Value
				case "grpc-message":
					message = field.Value
				}
			}
			return code, message
		}
	}
}

const describeMethod = workflowservice.WorkflowService_DescribeWorkflowExecution_FullMethodName

func TestACallerThatStopsSendingIsTimedOut(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxyWithin(t, f, 200*time.Millisecond)
	for name, part := range map[string][]byte{"nothing": nil, "half a header": {0, 0}, "half a message": {0, 0, 0, 0, 5, 1}} {
		r := p.raw(t, nil)
		r.call(t, 1, describeMethod, part, false)
		code, message := r.status(t)
		if code != "4" || !strings.Contains(message, "did not arrive") {
			t.Errorf("%s: status %s %s", name, code, message)
		}
	}
	eventually(t, func() bool { return p.inside(false) == 0 && p.admission.inUse() == 0 })
	if n := len(f.calls()); n != 0 {
		t.Errorf("%d calls were forwarded", n)
	}
}

func TestWrongRequestsOnTheWire(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f)
	for name, c := range map[string]struct {
		sent       []byte
		code, says string
	}{
		"no message":         {nil, "13", "no request message"},
		"two messages":       {[]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "13", "more than one"},
		"breaks off":         {[]byte{0, 0, 0, 0, 9, 1}, "13", "too early"},
		"compressed by what": {[]byte{1, 0, 0, 0, 1, 1}, "13", "names no compression"},
		"4 GiB":              {[]byte{0, 255, 255, 255, 255}, "8", "larger than max"},
	} {
		r := p.raw(t, nil)
		r.call(t, 1, describeMethod, c.sent, true)
		if code, message := r.status(t); code != c.code || !strings.Contains(message, c.says) {
			t.Errorf("%s: status %s %s, want %s %s", name, code, message, c.code, c.says)
		}
	}
	eventually(t, func() bool { return p.admission.inUse() == 0 })
}

// A caller whose window stays shut holds its answers in the proxy's memory.
func TestACallerThatDoesNotReadIsCutOff(t *testing.T) {
	for calls, size := range map[int]int{5: 200 << 10, forgiven/(2<<10) + 1: 2 << 10} {
		t.Run(strconv.Itoa(size), func(t *testing.T) { testCutOff(t, calls, size) })
	}
}

// testCutOff has a caller not read answers of this size, which go out as they came.
func testCutOff(t *testing.T, calls, size int) {
	f := &frontend{}
	f.query = func(context.Context, *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
		return &workflowservice.QueryWorkflowResponse{QueryResult: payloads(bytes.Repeat([]byte("x"), size))}, nil
	}
	startFrontend(t, f)
	p := startProxy(t, f)
	r := p.raw(t, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}})
	request := []byte{0, 0, 0, 0, 8, 0x0a, 6, 'c', 'l', 'i', 'n', 'i', 'c'}
	for i := range uint32(calls) {
		r.call(t, 2*i+1, workflowservice.WorkflowService_QueryWorkflow_FullMethodName, request, true)
	}
	eventually(t, func() bool { return p.inside(false) == 0 && p.admission.inUse() > int64(calls*size) })
	p.closeUnreadAt(time.Now().Add(answerTime / 2))
	if p.Connections() != 1 {
		t.Error("cut off too early")
	}
	p.closeUnreadAt(time.Now().Add(answerTime + time.Minute))
	eventually(t, func() bool { return p.Connections() == 0 && p.admission.inUse() == 0 })
}

// gRPC drops an answer without a word where a call is reset as the answer is handed over. Other calls of the connection do not suffer,
// and the answer's bytes are given back.
func TestAnswersThatGRPCDropsHarmNobody(t *testing.T) {
	a := newAdmission(Limits{Calls: 100, Bytes: 10 << 20, RequestBytes: 8 << 20}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	c := &connection{account: new(account), answers: map[*lease]struct{}{}}
	drop := func(size int) {
		p, err := a.enter(c, nil, false, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		l := newLease(p)
		l.place.countAnswer(int64(size), 0)
		l.conn, l.size, l.late = c, size, time.Now()
		c.sends(l)
		l.place.leave(true)
	}
	late := time.Now().Add(time.Hour)
	for range 4 {
		drop(16 << 10)
	}
	if a.inUse() != 64<<10 || c.unread(time.Now().Add(-time.Hour)) || a.inUse() != 64<<10 {
		t.Errorf("%d bytes count while the answers may still be written", a.inUse())
	}
	if c.unread(late) || a.inUse() != 0 || len(c.answers) != 0 {
		t.Errorf("the connection is closed for a few small answers, or %d bytes of %d are left", a.inUse(), len(c.answers))
	}
	if drop(2000); !c.unread(late) {
		t.Error("a connection may leave any number of answers unread")
	}
}

// A fault of the proxy's own ends the call that it is in, streams too, and no other.
func TestPanicsEndTheirCallAlone(t *testing.T) {
	h := startHolding(t)
	var faulty atomic.Bool
	p := startProxy(t, h.frontend, func(o *Options) {
		o.Listeners[0].Identify = func(shown auth.Credentials) (*auth.Identity, error) {
			if faulty.Load() {
				panic("out of order")
			}
			return auth.Anonymous("default", nil)(shown)
		}
	})
	conn := p.dial(t)
	c := workflowservice.NewWorkflowServiceClient(conn)
	wait := h.polls(t, c, 3)
	faulty.Store(true)
	ctx := testContext(t)
	if got := describeIn(ctx, c, "clinic"); got != codes.Internal {
		t.Errorf("a unary call: %v", got)
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "some.Service"})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "out of order") {
		t.Errorf("a stream: %v", err)
	}
	faulty.Store(false)
	if got := describeIn(ctx, c, "clinic"); got != codes.OK || h.held.Load() != 3 {
		t.Errorf("afterwards: %v, %d polls held", got, h.held.Load())
	}
	close(h.release)
	wait()
	eventually(t, func() bool { return p.admission.inUse() == 0 && p.inside(false) == 0 && p.inside(true) == 0 })
}

// A connection that is closed for its age keeps the polls that it has, and its caller notices nothing.
func TestConnectionAgeCutsNoCall(t *testing.T) {
	h := startHolding(t)
	l := LimitsFor(1 << 30)
	l.ConnectionAge = 300 * time.Millisecond
	p := startProxy(t, h.frontend, limited(l))
	c := p.client(t)
	wait := h.polls(t, c, 3)
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got := describeIn(testContext(t), c, "clinic"); got != codes.OK {
			t.Fatal(got)
		}
	}
	if n := p.Connections(); n < 2 {
		t.Errorf("%d connections: the old one is held by its polls, the new one takes calls", n)
	}
	close(h.release)
	wait()
}

// Headers beyond what the limit of calls allows for count as bytes, and end calls like any other.
func TestLargeHeadersCount(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, limited(Limits{Connections: 10, Calls: 10_000, LongPolls: 10, Bytes: MinBytes, RequestBytes: DefaultRequestBytes}))
	var more []string
	for i := range 19 {
		more = append(more, "x-"+strconv.Itoa(i), strings.Repeat("z", 3000))
	}
	r := p.raw(t, nil)
	for i := range uint32(400) { // 24 MB of headers, before the limit of 16
		r.call(t, 2*i+1, describeMethod, nil, false, more...)
	}
	eventually(t, func() bool { return p.inside(false) > 0 && p.admission.inUse() > MinBytes/2 })
	if code, message := r.status(t); code != "8" || !strings.Contains(message, "headers") {
		t.Errorf("status %s %s", code, message)
	}
	if n := p.admission.inUse(); n > MinBytes {
		t.Errorf("%d bytes", n)
	}
	r.Close()
	eventually(t, func() bool { return p.admission.inUse() == 0 })
}

// A flood of calls without an identity ends its own connection, and none on which a caller has proved one: behind a balancer
// that one may carry the polls of others.
func TestRefusedCallsEndTheirOwnConnection(t *testing.T) {
	s := &connections{admission: newAdmission(LimitsFor(1<<30), NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler)),
		metrics: NewMetrics(prometheus.NewRegistry()), all: map[*connection]struct{}{}}
	open := func() *connection {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		return s.add(ours)
	}
	flood, shared := open(), open()
	shared.known(true)
	for range mostRefused {
		flood.known(false)
		shared.known(false)
	}
	if _, stays := s.all[flood]; stays {
		t.Error("a connection that proves no identity stays")
	}
	if _, stays := s.all[shared]; !stays {
		t.Error("a connection with callers was closed because of others' calls")
	}
}

// tapped gives a call on a connection to the tap of a listener, and returns what the handler would get.
func (p *proxied) tapped(t *testing.T, c *connection, method string, headers metadata.MD, left time.Duration) (context.Context, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(peer.NewContext(t.Context(), &peer.Peer{AuthInfo: connectionInfo{conn: c}}), left)
	t.Cleanup(cancel)
	return p.tap(p.listeners[0])(ctx, &tap.Info{FullMethodName: method, Header: headers})
}

// Bytes are kept for the oldest request of which a part is in memory, and no more than it may still need: who sends headers and then
// nothing keeps none from others.
func TestBytesAreKeptForRequestsThatArrive(t *testing.T) {
	const unit = 1 << 20
	a := newAdmission(Limits{Calls: 10, Bytes: 20 * unit, RequestBytes: 8 * unit}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	enter := func(name string, headers int64) (*place, *reader) {
		p, err := a.enter(nil, policy.NewCaller("token", name, "default", nil), false, headers, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{place: &p, started: time.Now()}
		a.reads(r)
		return &p, r
	}
	fits := func(p *place, n int64, r *reader) bool { a.mu.Lock(); defer a.mu.Unlock(); return a.fits(p, n*unit, r) }
	_, silent := enter("silent", 9*unit)
	p, r := enter("good", 0)
	if !fits(p, 8, r) {
		t.Error("a silent caller keeps bytes from others")
	}
	silent.begins(5 * unit)
	if fits(p, 5, r) || !fits(p, 4, r) {
		t.Error("what the oldest request needs is not kept for it, or more than that")
	}
	silent.arrived.Store(4 * unit)
	if !fits(p, 7, r) || fits(p, 8, r) {
		t.Error("what has arrived is still kept")
	}
	if a.hasRead(silent); !fits(p, 8, r) {
		t.Error("what was read keeps bytes")
	}
}

// What the tap refuses takes no stream, and its connection is read more slowly. gRPC keeps the timer of such a call, so one that
// would be kept for long gets its refusal in the handler.
func TestTheTapRefusesWhatIsOverALimit(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, limited(Limits{Connections: 10, Calls: 100, LongPolls: 100, Bytes: MinBytes, RequestBytes: DefaultRequestBytes}))
	large := metadata.MD{"x": {strings.Repeat("z", 50_000)}}
	c := &connection{account: new(account), host: "127.0.0.1"}
	c.proved.Store(true)
	for _, method := range []string{describeMethod, healthpb.Health_Check_FullMethodName, "/acme.Extra/Method"} {
		if _, err := p.tapped(t, c, method, large, time.Second); err != nil || c.pause.Load() > 0 {
			t.Fatalf("%s: %v, and a pause of %d", method, err, c.pause.Load())
		}
	}
	full, err := p.admission.enter(c, nil, false, MinBytes*3/4-50_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer full.giveBack()
	for _, method := range []string{describeMethod, healthpb.Health_Check_FullMethodName, "/acme.Extra/Method"} {
		c.pause.Store(0)
		if _, err := p.tapped(t, c, method, large, refusedTime); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", method, err)
		}
		if least := int64(refusedPause + 50_000*headerPause); c.pause.Load() < least {
			t.Errorf("%s: a pause of %d, and %d is the least", method, c.pause.Load(), least)
		}
		ctx, err := p.tapped(t, c, method, large, time.Second)
		if err != nil || status.Code(refusedBefore(ctx)) != codes.ResourceExhausted {
			t.Errorf("%s: the tap ends a call whose timer would stay: %v, %v", method, err, refusedBefore(ctx))
		}
		if _, err := p.tapped(t, c, method, nil, time.Second); err != nil {
			t.Errorf("%s without headers: %v", method, err)
		}
	}
	full.count(MinBytes - 10_000 - full.bytes) // for everybody
	r := p.raw(t, nil)
	var more []string
	for i := range 10 {
		more = append(more, "x-"+strconv.Itoa(i), strings.Repeat("z", 5000))
	}
	for i, timeout := range []string{"5S", "1H", "99999999H"} {
		for j, method := range []string{describeMethod, healthpb.Health_Check_FullMethodName, "/acme.Extra/Method"} {
			r.call(t, uint32(2*(3*i+j)+1), method, nil, false, append(more, "grpc-timeout", timeout)...)
			if code, message := r.status(t); code != "8" || !strings.Contains(message, "headers") {
				t.Errorf("%s with %s: status %s %s", method, timeout, code, message)
			}
		}
	}
}

// A caller that takes no answers makes gRPC queue statuses without end: its connection is closed. Each write begins anew.
func TestStatusesThatNobodyTakesEndTheirConnection(t *testing.T) {
	s := &connections{admission: newAdmission(LimitsFor(1<<30), NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler)),
		metrics: NewMetrics(prometheus.NewRegistry()), all: map[*connection]struct{}{}}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go io.Copy(io.Discard, theirs)
	c := s.add(ours)
	for range 3 {
		for range mostStatuses - 1 {
			c.answersStatus()
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for range mostStatuses {
		c.answersStatus()
	}
	if _, stays := s.all[c]; stays {
		t.Error("the connection stays")
	}
}

// A connection is read later for what was refused on it, and by little at a time while no caller has proved an identity. Its end
// ends the pause.
func TestRefusedCallsSlowTheirConnection(t *testing.T) {
	for _, proved := range []bool{true, false} {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go func() { _, _ = theirs.Write(make([]byte, 3*slowRead)) }()
		c := &connection{Conn: ours, of: &connections{admission: new(admission)}, gone: make(chan struct{})}
		c.proved.Store(proved)
		c.slow(30 * time.Millisecond)
		c.slow(30 * time.Millisecond)
		start := time.Now()
		n, err := c.Read(make([]byte, 2*slowRead))
		if took := time.Since(start); err != nil || took < 60*time.Millisecond || n != map[bool]int{true: 2 * slowRead, false: slowRead}[proved] {
			t.Errorf("proved %v: read %d bytes after %v: %v", proved, n, took, err)
		}
		if c.pause.Load() != 0 {
			t.Errorf("proved %v: the pause is not over", proved)
		}
		c.slow(time.Hour)
		close(c.gone)
		if start = time.Now(); true {
			_, _ = c.Read(make([]byte, 1))
		}
		if took := time.Since(start); took > longestPause/2 {
			t.Errorf("proved %v: the end of the connection was noticed after %v", proved, took)
		}
	}
}

// Connections on which nobody has proved an identity wait one after the other. One with callers does not wait for others.
func TestRefusedCallsTakeTurns(t *testing.T) {
	of := &connections{admission: new(admission)}
	open := func(proved bool) *connection {
		c := &connection{of: of}
		c.proved.Store(proved)
		return c
	}
	const each = 100 * time.Millisecond
	for i := range 10 {
		c := open(false)
		c.slow(each)
		if pause := time.Duration(c.pause.Load()); pause < time.Duration(i+1)*each-10*time.Millisecond {
			t.Errorf("connection %d: a pause of %v", i, pause)
		}
	}
	known := open(true)
	if known.slow(each); known.pause.Load() != int64(each) {
		t.Errorf("a connection with callers: a pause of %v", time.Duration(known.pause.Load()))
	}
	for range 100 {
		open(false).slow(each)
	}
	if last := open(false); last.pause.Load() != 0 {
		t.Error("a connection without a refused call waits")
	} else if last.slow(each); time.Duration(last.pause.Load()) > longestUnproved {
		t.Errorf("a pause of %v", time.Duration(last.pause.Load()))
	}
}

// A call that its caller gives up before the request has arrived costs what a call costs, and its caller next to nothing: its
// connection is read later, also for health. It is no fault and no refusal, and a call whose time is over is none either.
func TestCallsThatAreResetSlowTheirConnection(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	part := []byte{0, 0, 0, 0, 5, 1}
	for name, begin := range map[string]func(r *raw, stream uint32) error{
		"reset": func(r *raw, stream uint32) error {
			r.call(t, stream, describeMethod, part, false)
			return r.WriteRSTStream(stream, http2.ErrCodeCancel)
		},
		"health, reset": func(r *raw, stream uint32) error {
			r.call(t, stream, healthpb.Health_Check_FullMethodName, part, false)
			return r.WriteRSTStream(stream, http2.ErrCodeCancel)
		},
		"little time": func(r *raw, stream uint32) error {
			r.call(t, stream, describeMethod, part, false, "grpc-timeout", "5m")
			return nil
		},
		"no message": func(r *raw, stream uint32) error {
			r.call(t, stream, describeMethod, nil, true)
			return nil
		},
	} {
		p := startProxy(t, f)
		r := p.raw(t, nil)
		for i := range uint32(20) {
			if err := begin(r, 2*i+1); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, func() bool { return p.Connections() == 1 })
		p.listeners[0].connections.mu.Lock()
		all := slices.Collect(maps.Keys(p.listeners[0].connections.all))
		p.listeners[0].connections.mu.Unlock()
		for _, c := range all {
			eventually(t, func() bool { return c.pause.Load() >= int64(resetPause) }) // of the last of them
		}
		eventually(t, func() bool { return p.inside(false) == 0 && p.inside(true) == 0 && p.admission.inUse() == 0 })
		if text := p.log.String(); name != "no message" && strings.Contains(text, "level=WARN") {
			t.Errorf("%s: logged as refused: %s", name, text)
		}
	}
}

// The headers of a stream count as long as it lasts, whatever it receives.
func TestHeadersOfStreamsCount(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f)
	large := strings.Repeat("z", 50_000)
	ctx := metadata.AppendToOutgoingContext(testContext(t), "x", large)
	conn := p.dial(t)
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	for range 3 {
		if err := stream.Send(list); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if n := p.admission.inUse(); n < 50_000 || n > 60_000 {
			t.Errorf("%d bytes count", n)
		}
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if n := p.admission.inUse(); n < 100_000 {
		t.Errorf("%d bytes count", n)
	}
	_ = conn.Close()
	eventually(t, func() bool { return p.admission.inUse() == 0 })
}

// TestBytesCountUntilTheAnswerIsWritten: what a call has in memory counts as long as its answer is on its way, however small that is,
// and is given back once.
func TestBytesCountUntilTheAnswerIsWritten(t *testing.T) {
	a := newAdmission(Limits{Calls: 10, Bytes: 10 << 20, RequestBytes: 8 << 20}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	enter := func() *place {
		r := &reader{started: time.Now()}
		p, err := a.enter(nil, policy.NewCaller("jwt", "a", "default", nil), false, 0, r)
		if err != nil {
			t.Fatal(err)
		}
		r.place = &p
		if _, ok := p.reserve(t.Context(), 1000, bytesWait, r); !ok {
			t.Fatal("a small request waits")
		}
		if a.hasRead(r); a.inUse() != 1000 {
			t.Fatalf("%d bytes count of a request of 1000", a.inUse())
		}
		p.count(1 << 20) // what is sealed
		return &p
	}
	p := enter()
	p.countAnswer(2000, 0)
	if p.leave(true); a.inUse() != 1<<20+3000 {
		t.Errorf("%d bytes count while the answer is on its way", a.inUse())
	}
	p.giveBack()
	p.count(5000) // by another goroutine of a stream that has ended
	if p.giveBack(); a.inUse() != 0 {
		t.Errorf("%d bytes are left", a.inUse())
	}
	gone := enter()
	gone.countAnswer(2000, 0)
	gone.giveBack() // the connection closed
	if gone.leave(true); a.inUse() != 0 || a.total != (account{}) {
		t.Errorf("%d bytes are left of an answer whose connection closed: %v", a.inUse(), a.total)
	}
	failed := enter()
	failed.countAnswer(2000, 0)
	if failed.leave(false); a.inUse() != 0 || a.total != (account{}) {
		t.Errorf("%d bytes are left of a call that failed: %v", a.inUse(), a.total)
	}
}

// TestBuffersOfDecompressedRequestsCount: no more is in memory than twice what counts, and the smallest buffer.
func TestBuffersOfDecompressedRequestsCount(t *testing.T) {
	for _, size := range []int{1, 1 << 10, 1<<10 + 1, 1201, 3 << 10, 64 << 10, 64<<10 + 1, 300_000} {
		for _, fill := range []string{"0", "0123456789abcdef-no-pattern"} {
			plain := bytes.Repeat([]byte(fill), size/len(fill)+1)[:size]
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			if _, err := w.Write(plain); err != nil || w.Close() != nil {
				t.Fatal(err)
			}
			a := newAdmission(Limits{Calls: 10, Bytes: MinBytes, RequestBytes: 8 << 20}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
			l := newLease(a.place(nil, false))
			r := &reader{wire: &recorded{compress: "gzip"}, place: &l.place, limit: 8 << 20, started: time.Now()}
			data, err := r.decompress(t.Context(), mem.BufferSlice{mem.SliceBuffer(z.Bytes())})
			if err != nil || data.Len() != size {
				t.Fatalf("%d bytes become %d: %v", size, data.Len(), err)
			}
			held := 0
			for _, b := range data {
				held += cap(b.ReadOnlyData())
			}
			if most := 3*(int(l.place.bytes)+int(r.small)) + 4*leastChunk; held > most {
				t.Errorf("of %d bytes, %d are in memory and %d count", size, held, l.place.bytes+r.small)
			}
			data.Free()
		}
	}
}

// TestCheckMayLookAtAllCallsAlone: as long as less than half of a limit is used, nobody's share is used up, so that check needs no
// lock to know that a call fits.
func TestCheckMayLookAtAllCallsAlone(t *testing.T) {
	for limit := range int64(60) {
		a := newAdmission(Limits{Calls: int(limit)}, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
		for all := range limit + 1 {
			for mine := range all + 1 {
				one := account{}
				p := place{in: a, accounts: [3]*account{&a.total, &one, &one}}
				a.total.used[calls], one.used[calls] = all, mine
				a.held[calls].Store(all)
				if all < limit/2 && p.full() {
					t.Fatalf("with a limit of %d, %d calls in all and %d of one caller, one more is too many", limit, all, mine)
				}
				if err := a.check(&connection{account: &one}, nil, false, 0); (err != nil) != p.full() {
					t.Fatalf("limit %d, all %d, one %d: check says %v", limit, all, mine, err)
				}
			}
		}
	}
}

// BenchmarkAdmission is what a small call takes of the lock that all calls share, hammered from all processors. 1 s over the result
// is how many calls a second the lock would let through if they did nothing else.
func BenchmarkAdmission(b *testing.B) {
	a := newAdmission(Limits{Connections: 1000, Calls: 1000, LongPolls: 1000, Bytes: 1 << 30, RequestBytes: 8 << 20},
		NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	var made atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		conn := &connection{account: new(account), host: "192.0.2.1"}
		caller := policy.NewCaller("jwt", strconv.FormatInt(made.Add(1), 10), "default", nil)
		for pb.Next() {
			r := &reader{started: time.Now()}
			if err := a.check(conn, caller, false, 0); err != nil {
				b.Fatal(err)
			}
			p, err := a.enter(conn, caller, false, 0, r)
			if err != nil {
				b.Fatal(err)
			}
			r.place = &p
			if _, ok := p.reserve(b.Context(), 1024, bytesWait, r); !ok {
				b.Fatal("a small request waits")
			}
			a.hasRead(r)
			p.countAnswer(1024, 0)
			p.leave(true)
			p.giveBack()
		}
	})
	if a.inUse() != 0 || a.total != (account{}) {
		b.Errorf("something is left: %+v", a.total)
	}
}
