package proxy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	"github.com/temporal-seal/temporal-seal/internal/caller"
)

const (
	// maxMessage is what SDKs accept: a worker can never again poll a workflow whose history does not get through.
	maxMessage = 128 << 20

	// streamsPerConnection is where another connection is opened. Load balancers in front of Temporal allow 100 to 128
	// streams on each, and a long poll holds one for a minute.
	streamsPerConnection = 64
	maxConnections       = 1024

	// maxTargets bounds how many addresses a {namespace} template may expand to.
	maxTargets = 1024

	namespaceVariable = "{namespace}"
)

// UpstreamConfig says where the calls of some namespaces go.
type UpstreamConfig struct {
	// Namespaces are patterns with `*`. Nil serves every call; empty but not nil serves the calls that name no namespace.
	Namespaces []string
	// Address is a gRPC target or host:port. `{namespace}` in it stands for the namespace of the call.
	Address string
	// TLS makes the credentials of a connection. Nil: plaintext.
	TLS credentials.TransportCredentials
	// APIKey is sent as bearer token in place of the caller's. gRPC refuses to send it without TLS.
	APIKey credentials.PerRPCCredentials
}

func (c *UpstreamConfig) serves(namespace string) bool {
	if c.Namespaces == nil {
		return true
	}
	if namespace == "" {
		return len(c.Namespaces) == 0
	}
	return caller.MatchAny(c.Namespaces, namespace)
}

// upstreams routes by namespace and keeps the connections.
type upstreams struct {
	configs []UpstreamConfig
	stats   stats.Handler

	mu      sync.Mutex
	targets map[target]*connections
	closed  bool
}

type target struct {
	config  int
	address string
}

// route is where one call goes.
type route struct {
	config *UpstreamConfig
	conns  *connections
}

func newUpstreams(configs []UpstreamConfig, stats stats.Handler) *upstreams {
	return &upstreams{configs: configs, stats: stats, targets: map[target]*connections{}}
}

// byNamespace tells if the namespace of a call decides where it goes.
func (u *upstreams) byNamespace() bool {
	c := u.configs[0]
	return c.Namespaces != nil || strings.Contains(c.Address, namespaceVariable)
}

func (u *upstreams) route(namespace string) (route, error) {
	for i := range u.configs {
		c := &u.configs[i]
		if !c.serves(namespace) {
			continue
		}
		address := c.Address
		if strings.Contains(address, namespaceVariable) {
			if !validHostLabel(namespace) {
				continue
			}
			address = strings.ReplaceAll(address, namespaceVariable, namespace)
		}
		conns, err := u.connections(target{i, address}, c)
		return route{c, conns}, err
	}
	return route{}, errNoUpstream
}

// validHostLabel keeps a namespace from steering a templated address to another host.
func validHostLabel(namespace string) bool {
	if namespace == "" || len(namespace) > 128 {
		return false
	}
	for _, r := range namespace {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		default:
			return false
		}
	}
	return path.Clean(namespace) == namespace
}

var (
	errNoUpstream = errors.New("no upstream serves this namespace: add it to `upstreams` in the proxy's config")
	errTooMany    = fmt.Errorf("more than %d upstream addresses in use", maxTargets)
	errClosed     = errors.New("the proxy is shutting down")
)

func (u *upstreams) connections(t target, c *UpstreamConfig) (*connections, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if conns, ok := u.targets[t]; ok {
		return conns, nil
	}
	if u.closed {
		return nil, errClosed
	}
	if len(u.targets) >= maxTargets {
		return nil, errTooMany
	}
	conns := &connections{address: t.address, options: dialOptions(c, u.stats)}
	first, err := conns.dial()
	if err != nil {
		return nil, err
	}
	conns.all.Store(&[]*connection{first})
	u.targets[t] = conns
	return conns, nil
}

// fixed gives the connections whose address does not depend on a namespace: those can be probed before any call.
func (u *upstreams) fixed() ([]route, error) {
	var routes []route
	for i := range u.configs {
		c := &u.configs[i]
		if strings.Contains(c.Address, namespaceVariable) {
			continue
		}
		conns, err := u.connections(target{i, c.Address}, c)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", c.Address, err)
		}
		routes = append(routes, route{c, conns})
	}
	return routes, nil
}

func (u *upstreams) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, conns := range u.targets {
		for _, c := range *conns.all.Load() {
			_ = c.cc.Close() // nothing is left to tell it to
		}
	}
}

// count is the number of connections, over all addresses.
func (u *upstreams) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, conns := range u.targets {
		n += len(*conns.all.Load())
	}
	return n
}

func dialOptions(c *UpstreamConfig, stats stats.Handler) []grpc.DialOption {
	creds := c.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(rawCodec{}),
			grpc.MaxCallRecvMsgSize(maxMessage),
			// Sealed bytes do not compress, and the answer goes out uncompressed: ask for nothing else.
			experimental.AcceptCompressors(),
		),
		experimental.WithBufferPool(buffers),
		// Whether a call may be sent twice is for the SDK to decide. gRPC still repeats what never reached the server.
		grpc.WithDisableRetry(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 15 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithIdleTimeout(5 * time.Minute),
	}
	if c.APIKey != nil {
		options = append(options, grpc.WithPerRPCCredentials(c.APIKey))
	}
	if stats != nil {
		options = append(options, grpc.WithStatsHandler(stats))
	}
	return options
}

// connections is a growing set of connections to one address. A connection carries a limited number of concurrent
// streams; calls beyond it would wait behind polls that take a minute.
type connections struct {
	address string
	options []grpc.DialOption

	all  atomic.Pointer[[]*connection]
	grow sync.Mutex
}

type connection struct {
	cc     *grpc.ClientConn
	active atomic.Int32
}

func (c *connections) dial() (*connection, error) {
	cc, err := grpc.NewClient(c.address, c.options...)
	if err != nil {
		return nil, err
	}
	return &connection{cc: cc}, nil
}

// take picks the least busy connection, opening another when all are full. Its caller must call done.
func (c *connections) take() *connection {
	for {
		all := *c.all.Load()
		least := all[0]
		active := least.active.Load()
		for _, other := range all[1:] {
			if n := other.active.Load(); n < active {
				least, active = other, n
			}
		}
		if active < streamsPerConnection || len(all) >= maxConnections || !c.add(len(all)) {
			least.active.Add(1)
			return least
		}
	}
}

// add opens one more connection unless another call has done so meanwhile. It reports if the set has grown.
func (c *connections) add(seen int) bool {
	c.grow.Lock()
	defer c.grow.Unlock()
	all := *c.all.Load()
	if len(all) > seen {
		return true
	}
	next, err := c.dial()
	if err != nil {
		return false // the same target was dialled before: keep to the connections that exist
	}
	grown := append(append(make([]*connection, 0, len(all)+1), all...), next)
	c.all.Store(&grown)
	return true
}

func (c *connection) done() { c.active.Add(-1) }

// invoke makes one unary call with raw frames.
func (c *connections) invoke(ctx context.Context, method string, in, out *frame, options ...grpc.CallOption) error {
	conn := c.take()
	defer conn.done()
	return conn.cc.Invoke(ctx, method, in, out, options...)
}
