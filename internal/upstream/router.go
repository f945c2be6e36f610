package upstream

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/stats"

	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

const (
	// MaxMessage is what SDKs accept: a worker can never again poll a workflow whose history does not get through.
	MaxMessage = 128 << 20

	// maxTargets bounds how many addresses a {namespace} template may expand to.
	maxTargets = 1024

	namespaceVariable = "{namespace}"
)

// Config says where the calls of some namespaces go.
type Config struct {
	// Namespaces are patterns with `*`. Nil serves every call; empty but not nil serves the calls that name no namespace.
	Namespaces []string
	// Address is a gRPC target or host:port. `{namespace}` in it stands for the namespace of the call.
	Address string
	// TLS makes the credentials of a connection. Nil: plaintext.
	TLS credentials.TransportCredentials
	// PassCredential forwards the token that a caller showed to the listener. It is for an upstream that checks the same
	// tokens; without it they end here.
	PassCredential bool
	// APIKey is sent as bearer token in place of the caller's. gRPC refuses to send it without TLS.
	APIKey credentials.PerRPCCredentials
}

func (c *Config) serves(namespace string) bool {
	if c.Namespaces == nil {
		return true
	}
	if namespace == "" {
		return len(c.Namespaces) == 0
	}
	return glob.MatchAny(c.Namespaces, namespace)
}

// Router routes by namespace and keeps the connections.
type Router struct {
	configs []Config
	options Options

	mu      sync.Mutex
	targets map[target]*Pool
	closed  bool
}

type target struct {
	config  int
	address string
}

// Options are for all connections. The zero value is for typed messages.
type Options struct {
	Stats   stats.Handler    // nil: none
	Codec   encoding.CodecV2 // nil: gRPC's own
	Buffers mem.BufferPool   // nil: gRPC's own
}

// NewRouter connects to no upstream yet.
func NewRouter(configs []Config, o Options) *Router {
	return &Router{configs: configs, options: o, targets: map[target]*Pool{}}
}

// ByNamespace tells if the namespace of a call decides where it goes.
func (u *Router) ByNamespace() bool {
	c := u.configs[0]
	return c.Namespaces != nil || strings.Contains(c.Address, namespaceVariable)
}

// Route gives the connections for a call that names this namespace, or none if it is "".
func (u *Router) Route(namespace string) (*Pool, error) {
	for i := range u.configs {
		c := &u.configs[i]
		if !c.serves(namespace) {
			continue
		}
		address := c.Address
		if strings.Contains(address, namespaceVariable) {
			if !fitsAddress(address, namespace) {
				continue
			}
			address = strings.ReplaceAll(address, namespaceVariable, namespace)
		}
		return u.connections(target{i, address}, c)
	}
	return nil, ErrNoUpstream
}

// fitsAddress keeps a namespace from steering a templated address to another host: it is made of what host names are made of, and
// may have dots only where a domain follows in the address.
func fitsAddress(address, namespace string) bool {
	if namespace == "" || len(namespace) > 128 {
		return false
	}
	_, rest, _ := strings.Cut(address, namespaceVariable)
	domain := strings.HasPrefix(rest, ".")
	for label := range strings.SplitSeq(namespace, ".") {
		if label == "" || strings.ContainsFunc(label, notInHostNames) {
			return false
		}
	}
	return domain || !strings.Contains(namespace, ".")
}

func notInHostNames(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// These errors are met before a call is forwarded.
var (
	// ErrNoUpstream is why a call goes nowhere.
	ErrNoUpstream = errors.New("no upstream serves this namespace: add it to `upstreams` in the proxy's config")
	// ErrTooMany is why a call gets no upstream address of its own.
	ErrTooMany = fmt.Errorf("more than %d upstream addresses in use", maxTargets)
	// ErrClosed is why nothing is answered any more.
	ErrClosed = errors.New("the proxy is shutting down")
)

func (u *Router) connections(t target, c *Config) (*Pool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if conns, ok := u.targets[t]; ok {
		return conns, nil
	}
	if u.closed {
		return nil, ErrClosed
	}
	if len(u.targets) >= maxTargets {
		return nil, ErrTooMany
	}
	conns, err := newPool(t.address, c, u.options)
	if err != nil {
		return nil, err
	}
	u.targets[t] = conns
	return conns, nil
}

// fixed gives the connections whose address does not depend on a namespace: those can be probed before any call.
func (u *Router) fixed() ([]*Pool, error) {
	var fixed []*Pool
	for i := range u.configs {
		c := &u.configs[i]
		if strings.Contains(c.Address, namespaceVariable) {
			continue
		}
		conns, err := u.connections(target{i, c.Address}, c)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", c.Address, err)
		}
		fixed = append(fixed, conns)
	}
	return fixed, nil
}

// Close cuts all calls.
func (u *Router) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	u.closed = true
	for _, conns := range u.targets {
		conns.close()
	}
}

// Count returns the number of open connections, over all addresses.
func (u *Router) Count() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, pool := range u.targets {
		n += pool.open()
	}
	return n
}
