package upstream

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

const (
	// callsPerConnection is the number of calls that share a connection. Load balancers allow 100 or more.
	// What shares a connection shares writes and reads: with 16 calls each, a call costs a twentieth more
	// CPU.
	callsPerConnection = 90
	maxConnections     = 1024

	// StreamWindow is how much of a message may arrive before it is read: the memory that limits reckon with
	// for a call. Left to itself, gRPC lets it grow to 16 MiB for each of thousands of calls. A message that
	// is being read is let in whole all the same, but the sender of one larger than the window stops and
	// waits: a tenth of a call's CPU at 100 KB.
	StreamWindow = 128 << 10
	// ConnWindow is the same for all calls of a connection.
	ConnWindow = 16 << 20
	// WriteBuffer collects large messages into few writes. Between writes a connection has no buffer.
	WriteBuffer = 128 << 10
)

// Pool holds the connections to one address.
//
// A connection carries a limited number of concurrent streams, and gRPC makes the calls beyond it wait,
// behind polls that take a minute. So the pool uses as many connections as its calls need, and gives each
// call the least busy one of these. No connection is closed below a call: those beyond the need get no new
// calls, and gRPC closes them once they have been idle for a while. Nor are connections renewed by age, since
// frontends end them every few minutes by GOAWAY: the calls on them go on, and the next ones look the name up
// again and may find a frontend that was added.
type Pool struct {
	config  *Config
	address string
	options []grpc.DialOption
	spans   Spans
	streams streamLimit
	calls   atomic.Int32
	held    atomic.Int32 // by calls that were routed here and have not ended
	used    uint64       // the router's count of calls when the last one was routed here; the router's lock guards it

	all atomic.Pointer[[]*connection] // empty once it was disconnected

	mu     sync.Mutex // held to change all, and for:
	closed bool
}

// connection is one connection of a pool, and the number of its calls.
type connection struct {
	cc    *grpc.ClientConn
	pool  *Pool
	calls atomic.Int32
}

// Spans makes the spans of calls.
type Spans interface {
	// Begin begins the span of a call, if it is to have one: then End has to be called with the returned context, which the
	// call is made with too.
	Begin(ctx context.Context, fullMethod string) (_ context.Context, begun bool)
	// End ends the span of a call that went to an address, if it went to any.
	End(ctx context.Context, address net.Addr, err error)
}

// noSpans makes none.
type noSpans struct{}

func (noSpans) Begin(ctx context.Context, _ string) (context.Context, bool) { return ctx, false }
func (noSpans) End(context.Context, net.Addr, error)                        {}

func newPool(address string, c *Config, spans Spans) (*Pool, error) {
	if spans == nil {
		spans = noSpans{}
	}
	p := &Pool{config: c, address: address, spans: spans}
	p.options = p.dialOptions()
	first, err := p.dial()
	if err != nil {
		return nil, err
	}
	p.all.Store(&[]*connection{first})
	return p, nil
}

// Release ends what [Router.Route] began.
func (p *Pool) Release() { p.held.Add(-1) }

// Config returns where the calls go and what they show there.
func (p *Pool) Config() *Config { return p.config }

func (p *Pool) dialOptions() []grpc.DialOption {
	creds := p.config.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(settingsReader{creds, &p.streams}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessage),
			// Sealed bytes do not compress, and the answer goes out uncompressed: ask for nothing else.
			experimental.AcceptCompressors(),
			grpc.ForceCodecV2(frame.Codec{}),
		),
		experimental.WithBufferPool(frame.Sealed),
		grpc.WithWriteBufferSize(WriteBuffer),
		grpc.WithSharedWriteBuffer(true),
		// Whether a call may be sent twice is for the SDK to decide. gRPC still repeats what never reached
		// the server.
		grpc.WithDisableRetry(),
		// One connection each, so that streams can be counted, to any one of the upstream's addresses.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}`),
		grpc.WithStaticStreamWindowSize(StreamWindow),
		grpc.WithStaticConnWindowSize(ConnWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 30 * time.Second, Timeout: 15 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithIdleTimeout(5 * time.Minute),
	}
	if p.config.APIKey != nil {
		options = append(options, grpc.WithPerRPCCredentials(p.config.APIKey))
	}
	return options
}

func (p *Pool) dial() (*connection, error) {
	cc, err := grpc.NewClient(p.address, p.options...)
	return &connection{cc: cc, pool: p}, err
}

// take returns the connection for one call, which ends with done.
func (p *Pool) take(ctx context.Context) *connection {
	if !p.streams.known() {
		p.first(1)[0].connect(ctx) // the call would wait for that anyway
	}
	p.calls.Add(1)
	for {
		limit := p.streams.usable()
		need := (p.calls.Load() + limit - 1) / limit
		conns := p.first(int(need))
		conn := choose(conns, limit)
		if conn.calls.Add(1) <= limit || len(conns) < int(need) {
			return conn
		}
		conn.calls.Add(-1) // another call was faster
	}
}

// done ends a call. The sum of the connections' calls never exceeds the pool's.
func (c *connection) done() {
	c.calls.Add(-1)
	c.pool.calls.Add(-1)
}

// first returns the first n connections, or fewer if there cannot be as many.
func (p *Pool) first(n int) []*connection {
	n = min(n, maxConnections)
	if all := *p.all.Load(); len(all) >= n {
		return all[:n]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := *p.all.Load()
	for len(all) < n && !p.closed {
		next, err := p.dial()
		if err != nil {
			break // the same target was dialed before: keep to the connections that exist
		}
		all = append(slices.Clip(all), next)
	}
	p.all.Store(&all)
	return all[:min(n, len(all))]
}

// choose returns the least busy connection. One that is not connected is passed over while another one has
// room.
func choose(conns []*connection, limit int32) *connection {
	least := leastBusy(conns, func(*connection) bool { return true })
	if len(conns) > 1 && !least.ready() {
		if other := leastBusy(conns, (*connection).ready); other != nil && other.calls.Load() < limit {
			return other
		}
	}
	return least
}

func leastBusy(conns []*connection, which func(*connection) bool) (least *connection) {
	var calls int32
	for _, conn := range conns {
		if n := conn.calls.Load(); (least == nil || n < calls) && which(conn) {
			least, calls = conn, n
		}
	}
	return least
}

func (c *connection) ready() bool { return c.cc.GetState() == connectivity.Ready }

// connect waits until the connection is up or that has failed, at most until ctx ends.
func (c *connection) connect(ctx context.Context) {
	for {
		c.cc.Connect()
		switch state := c.cc.GetState(); state {
		case connectivity.Ready, connectivity.TransientFailure, connectivity.Shutdown:
			return
		default:
			if !c.cc.WaitForStateChange(ctx, state) {
				return
			}
		}
	}
}

// Reach returns nil once calls have a connection, or why there is none when ctx ends or connecting has failed.
func (p *Pool) Reach(ctx context.Context) error {
	all := *p.all.Load()
	if slices.ContainsFunc(all, (*connection).ready) {
		return nil
	}
	first := p.first(1)
	if len(first) == 0 {
		return ErrClosed
	}
	first[0].connect(ctx)
	if !first[0].ready() {
		return fmt.Errorf("no connection to %s", p.address)
	}
	return nil
}

// open returns the number of connections that are not idle.
func (p *Pool) open() (n int) {
	for _, conn := range *p.all.Load() {
		if conn.cc.GetState() != connectivity.Idle {
			n++
		}
	}
	return n
}

// disconnect closes the connections, none of which has a call. A call that is made later all the same opens new ones.
func (p *Pool) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range *p.all.Swap(new([]*connection)) {
		_ = conn.cc.Close() // it fails only if it is closed already
	}
}

// close ends all calls.
func (p *Pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range *p.all.Load() {
		_ = conn.cc.Close() // it fails only if it is closed already
	}
}

// Conn returns a connection for one call, which ends with ctx at the latest.
func (p *Pool) Conn(ctx context.Context) *grpc.ClientConn {
	conn := p.take(ctx)
	context.AfterFunc(ctx, conn.done)
	return conn.cc
}

// Invoke makes a unary call. With Invoke and NewStream, a pool is the connection of a generated client.
func (p *Pool) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) (err error) {
	conn := p.take(ctx)
	defer conn.done()
	traced, begun := p.spans.Begin(ctx, method)
	if !begun {
		return conn.cc.Invoke(ctx, method, in, out, options...)
	}
	var to peer.Peer
	defer func() { p.spans.End(traced, to.Addr, err) }()
	return conn.cc.Invoke(traced, method, in, out, append(options, grpc.Peer(&to))...)
}

// NewStream begins a call that ends with ctx at the latest.
func (p *Pool) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return p.Conn(ctx).NewStream(ctx, desc, method, options...)
}

// InvokeGated is Invoke for an answer that may be large: admit is called when the answer begins to arrive,
// and may make it wait. The variables of grpc.Header and others may still be written after a call was
// given up, so this reads header, trailer and address from the stream.
func (p *Pool) InvokeGated(
	ctx context.Context, method string, in, out any, admit func() error,
) (header, trailer metadata.MD, err error) {
	conn := p.take(ctx)
	defer conn.done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	traced, begun := p.spans.Begin(ctx, method)
	stream, err := conn.cc.NewStream(traced, &unaryStream, method)
	if err == nil {
		header, trailer, err = exchange(stream, in, out, admit)
	}
	if begun {
		p.spans.End(traced, addressOf(stream), err)
	}
	return header, trailer, err
}

// exchange sends the request of a unary call and receives its answer.
func exchange(stream grpc.ClientStream, in, out any, admit func() error) (header, trailer metadata.MD, err error) {
	if err := stream.SendMsg(in); err != nil {
		return nil, nil, err
	}
	if header, err = stream.Header(); err == nil {
		if err := admit(); err != nil {
			return nil, nil, err
		}
	}
	err = stream.RecvMsg(out)
	return header, stream.Trailer(), err
}

// addressOf returns where a stream has led; nil: it is none, or has not been on its way.
func addressOf(stream grpc.ClientStream) net.Addr {
	if stream == nil {
		return nil
	}
	if to, ok := peer.FromContext(stream.Context()); ok {
		return to.Addr
	}
	return nil
}

var unaryStream grpc.StreamDesc
