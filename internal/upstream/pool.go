package upstream

import (
	"context"
	"math/rand/v2"
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
)

// A connection carries a limited number of concurrent streams, and gRPC makes the calls beyond it wait, behind polls that
// take a minute. So there are several to each address: more when their streams run out, fewer when they are idle.

const (
	// mostStreams is how many calls share a connection where the upstream would allow any number.
	mostStreams = 256
	// cautiousStreams share a connection of which it is not known yet what the upstream allows.
	cautiousStreams = 8
	// spread is the number of connections that are opened ahead of need, one per spreadStreams calls: each goes to one
	// of the upstream's addresses, so that more than one of its hosts gets work. What shares a connection shares writes
	// and reads: with one per 16 calls each call costs a twentieth more CPU.
	spread        = 4
	spreadStreams = 64

	maxConnections = 1024

	// connectionLife is how long a connection gets new calls, more or less. Its successor looks the name up anew and may
	// find another host: frontends that were added get work, and load balancers can even out theirs.
	connectionLife = 10 * time.Minute
	// tendEvery is how often connections are looked after, and idleTends how often in a row one has to be found
	// superfluous before it goes.
	tendEvery = 5 * time.Second
	idleTends = 12

	// StreamWindow is how much of a message may arrive before it is being read: what perCall reckons with. Left to itself gRPC
	// lets it grow to 16 MiB for each of thousands of calls. A message that is being read is let in whole all the same,
	// but if it is larger than the window its sender stops and waits to be told, a tenth of a call's CPU at 100 KB.
	StreamWindow = 128 << 10
	// ConnWindow is what may arrive on a connection before it is being read.
	ConnWindow = 16 << 20

	// WriteBuffer is how much of a message is written at once.
	WriteBuffer = 128 << 10
)

// Pool holds the connections to one address.
type Pool struct {
	config  *Config
	address string
	options []grpc.DialOption
	streams streamLimit

	all atomic.Pointer[[]*connection] // those that get new calls; never empty

	mu       sync.Mutex    // held to change all, and for:
	leaving  []*connection // they get no new calls, and are closed with their last one
	surplus  int           // how often in a row there was a connection too many
	shutdown bool
}

type connection struct {
	cc *grpc.ClientConn
	// active is the number of calls; negative once the connection is closed.
	active    atomic.Int32
	until     time.Time   // then it is replaced
	successor *connection // dialled, and not in use until it is connected
}

// closedConnection is added to active by who closes a connection.
const closedConnection = -1 << 30

func newPool(address string, c *Config, o Options) (*Pool, error) {
	conns := &Pool{config: c, address: address}
	conns.options = conns.dialOptions(o)
	first, err := conns.dial()
	if err != nil {
		return nil, err
	}
	conns.all.Store(&[]*connection{first})
	return conns, nil
}

// Config is where the calls go and what they show there.
func (c *Pool) Config() *Config { return c.config }

func (c *Pool) dialOptions(o Options) []grpc.DialOption {
	creds := c.config.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(learning{creds, &c.streams}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessage),
			// Sealed bytes do not compress, and the answer goes out uncompressed: ask for nothing else.
			experimental.AcceptCompressors(),
		),
		// Large messages go out in few writes. Between writes a connection has no buffer.
		grpc.WithWriteBufferSize(WriteBuffer),
		grpc.WithSharedWriteBuffer(true),
		// Whether a call may be sent twice is for the SDK to decide. gRPC still repeats what never reached the server.
		grpc.WithDisableRetry(),
		// One connection each, so that streams can be counted, to any one of the upstream's addresses.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}`),
		grpc.WithStaticStreamWindowSize(StreamWindow),
		grpc.WithStaticConnWindowSize(ConnWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 15 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithIdleTimeout(5 * time.Minute),
	}
	if c.config.APIKey != nil {
		options = append(options, grpc.WithPerRPCCredentials(c.config.APIKey))
	}
	if o.Codec != nil {
		options = append(options, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(o.Codec)))
	}
	if o.Buffers != nil {
		options = append(options, experimental.WithBufferPool(o.Buffers))
	}
	if o.Stats != nil {
		options = append(options, grpc.WithStatsHandler(o.Stats))
	}
	return options
}

func (c *Pool) dial() (*connection, error) {
	cc, err := grpc.NewClient(c.address, c.options...)
	if err != nil {
		return nil, err
	}
	life := connectionLife + rand.N(connectionLife/4) // not all at once
	return &connection{cc: cc, until: time.Now().Add(life)}, nil
}

// take picks a connection for one call, opening another when all are full. Its caller must call done.
func (c *Pool) take(ctx context.Context) *connection {
	for {
		all := *c.all.Load()
		best := leastBusy(all, func(*connection) bool { return true })
		if len(all) > 1 && best.cc.GetState() != connectivity.Ready {
			if other := leastBusy(all, (*connection).ready); other != nil && int(other.active.Load()) < c.room(len(all)) {
				best = other
			}
		}
		if int(best.active.Load()) >= c.room(len(all)) {
			if !c.streams.known() && best.connected(ctx) {
				continue // now it is known how many there may be
			}
			if len(all) < maxConnections && c.add(len(all)) {
				continue
			}
		}
		if best.active.Add(1) > 0 {
			return best
		}
		best.active.Add(-1) // it was closed just now
	}
}

// room is how many calls a connection gets when there are n, before another one is opened.
func (c *Pool) room(n int) int {
	if !c.streams.known() {
		return cautiousStreams
	}
	if n < spread {
		return min(spreadStreams, c.streams.usable())
	}
	return c.streams.usable()
}

// wanted is how many connections a number of calls needs.
func (c *Pool) wanted(calls int) int {
	if n := (calls + spreadStreams - 1) / spreadStreams; n < spread {
		return max(n, 1, (calls+c.streams.usable()-1)/c.streams.usable())
	}
	return max(spread, (calls+c.streams.usable()-1)/c.streams.usable())
}

func leastBusy(all []*connection, which func(*connection) bool) (least *connection) {
	var active int32
	for _, conn := range all {
		if n := conn.active.Load(); (least == nil || n < active) && which(conn) {
			least, active = conn, n
		}
	}
	return least
}

func (c *connection) ready() bool { return c.cc.GetState() == connectivity.Ready }

// connected waits until the connection is up. It reports false if that fails, or ctx ends first.
func (c *connection) connected(ctx context.Context) bool {
	for {
		c.cc.Connect()
		switch state := c.cc.GetState(); state {
		case connectivity.Ready:
			return true
		case connectivity.TransientFailure, connectivity.Shutdown:
			return false
		default:
			if !c.cc.WaitForStateChange(ctx, state) {
				return false
			}
		}
	}
}

// add opens one more connection unless another call has done so meanwhile. It reports if the set has changed.
func (c *Pool) add(seen int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := *c.all.Load()
	if len(all) != seen {
		return true
	}
	next, err := c.dial()
	if err != nil || c.shutdown {
		return false // the same target was dialled before: keep to the connections that exist
	}
	c.store(append(slices.Clone(all), next))
	return true
}

func (c *Pool) store(all []*connection) { c.all.Store(&all) }

func (c *connection) done() { c.active.Add(-1) }

// closeIfUnused closes the connection for good, unless it has calls.
func (c *connection) closeIfUnused() bool {
	if !c.active.CompareAndSwap(0, closedConnection) {
		return false
	}
	_ = c.cc.Close() // nothing is left to tell it to
	return true
}

// tend replaces old connections, gives up one that is superfluous, and closes those that were given up and have ended
// their calls. No call is ever cut.
func (c *Pool) tend(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shutdown {
		return
	}
	all := slices.Clone(*c.all.Load())
	for i, conn := range all {
		if next := c.replace(conn, now); next != nil {
			all[i] = next
			c.leaving = append(c.leaving, conn)
		}
	}
	if c.superfluous(all) {
		least := leastBusy(all, func(*connection) bool { return true })
		all = slices.DeleteFunc(all, func(conn *connection) bool { return conn == least })
		c.leaving = append(c.leaving, least)
	}
	c.store(all)
	c.leaving = slices.DeleteFunc(c.leaving, (*connection).closeIfUnused)
}

// replace gives the connection to use instead of one that is old, once that is connected.
func (c *Pool) replace(conn *connection, now time.Time) *connection {
	if now.Before(conn.until) || conn.cc.GetState() == connectivity.Idle { // an idle one connects anew before it is used
		return nil
	}
	if conn.successor == nil {
		next, err := c.dial()
		if err != nil {
			return nil
		}
		next.cc.Connect()
		conn.successor = next
		return nil
	}
	if !conn.successor.ready() {
		return nil
	}
	return conn.successor
}

// superfluous tells if there has been a connection too many for a while, by a good margin.
func (c *Pool) superfluous(all []*connection) bool {
	calls := 0
	for _, conn := range all {
		calls += int(conn.active.Load())
	}
	if len(all) <= c.wanted(calls+calls/2) {
		c.surplus = 0
		return false
	}
	c.surplus++
	return c.surplus >= idleTends
}

func (c *Pool) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(*c.all.Load()) + len(c.leaving)
}

// close cuts all calls.
func (c *Pool) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shutdown = true
	for _, conn := range append(c.leaving, *c.all.Load()...) {
		_ = conn.cc.Close() // nothing is left to tell it to
		if conn.successor != nil {
			_ = conn.successor.cc.Close()
		}
	}
}

// Conn gives a connection for one call, which ends with ctx at the latest.
func (c *Pool) Conn(ctx context.Context) *grpc.ClientConn {
	conn := c.take(ctx)
	context.AfterFunc(ctx, conn.done)
	return conn.cc
}

// Invoke makes one unary call: with NewStream, connections serve a generated client.
func (c *Pool) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) error {
	conn := c.take(ctx)
	defer conn.done()
	return conn.cc.Invoke(ctx, method, in, out, options...)
}

// NewStream begins a call that ends with ctx at the latest.
func (c *Pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.Conn(ctx).NewStream(ctx, desc, method, options...)
}

// InvokeGated is Invoke for an answer that may be large: admit is asked when it begins to arrive, and may make it wait.
// What the call options for headers and trailers point to may still be written when a call was given up, so here the
// stream tells them.
func (c *Pool) InvokeGated(ctx context.Context, method string, in, out any, admit func() error) (header, trailer metadata.MD, err error) {
	conn := c.take(ctx)
	defer conn.done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.cc.NewStream(ctx, &unaryStream, method)
	if err != nil {
		return nil, nil, err
	}
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

var unaryStream grpc.StreamDesc
