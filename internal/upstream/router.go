package upstream

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

const (
	// MaxMessage is the size of an answer that SDKs accept: a worker could never again poll a workflow whose
	// history does not get through.
	MaxMessage = 128 << 20

	// maxTargets bounds how many addresses a {namespace} template may expand to. One more takes the place of the one without
	// calls that was used longest ago.
	maxTargets = 1024

	namespaceVariable = "{namespace}"
)

// Config describes an upstream and the calls that go there.
type Config struct {
	// Namespaces are patterns with `*`. Nil serves every call; empty but not nil serves the calls that name
	// no namespace.
	Namespaces []string
	// Address is a gRPC target or host:port, required. `{namespace}` in it stands for the namespace of the
	// call.
	Address string
	// TLS are the credentials of a connection. Nil: plaintext.
	TLS credentials.TransportCredentials
	// PassCredential forwards the token that a caller showed to the listener, for an upstream that checks the
	// same tokens.
	PassCredential bool
	// APIKey is sent as bearer token in place of the caller's. gRPC refuses to send it without TLS. Nil:
	// none.
	APIKey credentials.PerRPCCredentials
}

// These errors occur before a call is forwarded.
var (
	// ErrNoUpstream means that no upstream serves the call's namespace.
	ErrNoUpstream = errors.New("no upstream serves this namespace: add it to `upstreams` in the proxy's config")
	// ErrTooMany means that a namespace would need one more upstream address than the limit.
	ErrTooMany = fmt.Errorf("more than %d upstream addresses in use", maxTargets)
	// ErrClosed means that the router was closed.
	ErrClosed = errors.New("the proxy is shutting down")
)

// Fixed reports whether the address is the same for all namespaces.
func (c *Config) Fixed() bool { return !strings.Contains(c.Address, namespaceVariable) }

// Serves reports whether the calls of a namespace go to the upstream, unless an earlier one serves it; "" is that of calls
// which name none.
func (c *Config) Serves(namespace string) bool {
	if c.Namespaces == nil {
		return true
	}
	if namespace == "" {
		return len(c.Namespaces) == 0
	}
	return glob.MatchAny(c.Namespaces, namespace)
}

// errUnnamed is ErrNoUpstream for a call that names no namespace.
type errUnnamed struct{}

// Error says what to change.
func (errUnnamed) Error() string {
	return "the call names no namespace, and every upstream of the proxy's config serves certain namespaces only: " +
		"name one in the call, or add an upstream without `namespaces`"
}

// Is reports that it is an ErrNoUpstream.
func (errUnnamed) Is(target error) bool { return target == ErrNoUpstream }

// Router finds the upstream of a call by its namespace, and has a pool of connections to each address.
type Router struct {
	configs []Config
	spans   Spans // nil: none

	mu     sync.Mutex
	pools  map[target]*Pool
	routed uint64 // calls
	closed bool
}

// target is an address of an upstream, which is distinguished by its index: two may share an address.
type target struct {
	config  int
	address string
}

// NewRouter makes a router for the upstreams, of which the first that serves a namespace gets its calls. It
// opens no connection: calls do. spans may be nil.
func NewRouter(configs []Config, spans Spans) *Router {
	return &Router{configs: configs, spans: spans, pools: map[target]*Pool{}}
}

// ByNamespace reports whether the namespace of a call decides where it goes.
func (r *Router) ByNamespace() bool {
	c := r.configs[0]
	return c.Namespaces != nil || strings.Contains(c.Address, namespaceVariable)
}

// Route returns the pool for a call that names this namespace, or none if it is "". The call has to release it.
func (r *Router) Route(namespace string) (*Pool, error) {
	for i, c := range r.configs {
		if !c.Serves(namespace) {
			continue
		}
		address := c.Address
		if strings.Contains(address, namespaceVariable) {
			if !fitsAddress(address, namespace) {
				continue
			}
			address = strings.ReplaceAll(address, namespaceVariable, namespace)
		}
		return r.pool(i, address)
	}
	if namespace == "" {
		return nil, errUnnamed{}
	}
	return nil, ErrNoUpstream
}

// RoutePublic is Route for a call that is about no namespace and that every upstream answers. It goes where a namespace that
// the caller hints at is served, else where calls without a namespace are, else to the first upstream.
func (r *Router) RoutePublic(hint string) (*Pool, error) {
	for _, namespace := range []string{hint, ""} {
		if pool, err := r.Route(namespace); !errors.Is(err, ErrNoUpstream) {
			return pool, err
		}
	}
	for i, c := range r.configs {
		if c.Fixed() {
			return r.pool(i, c.Address)
		}
	}
	return nil, ErrNoUpstream
}

// fitsAddress reports whether a namespace may stand in a templated address. It must not steer the call to
// another host, so it consists of what host names consist of, and has dots only where a domain follows in the
// address.
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

// pool returns the pool for an address of an upstream, and makes it for the first call.
func (r *Router) pool(config int, address string) (*Pool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.routed++
	t := target{config, address}
	switch pool := r.pools[t]; {
	case pool != nil:
		pool.used = r.routed
		pool.held.Add(1)
		return pool, nil
	case r.closed:
		return nil, ErrClosed
	case len(r.pools) >= maxTargets && !r.evict():
		return nil, ErrTooMany
	}
	pool, err := newPool(address, &r.configs[config], r.spans)
	if err == nil {
		pool.used = r.routed
		pool.held.Add(1)
		r.pools[t] = pool
	}
	return pool, err
}

// evict removes the pool that no call needs and that was used longest ago. It reports false where there is none. The caller
// holds the lock.
func (r *Router) evict() bool {
	var oldest target
	var found *Pool
	for t, pool := range r.pools {
		if pool.held.Load() == 0 && pool.calls.Load() == 0 && (found == nil || pool.used < found.used) {
			oldest, found = t, pool
		}
	}
	if found != nil {
		delete(r.pools, oldest)
		found.disconnect()
	}
	return found != nil
}

// fixed returns the pools whose address does not depend on a namespace: calls of the proxy's own can go
// there.
func (r *Router) fixed() (pools []*Pool, err error) {
	for i, c := range r.configs {
		if !c.Fixed() {
			continue
		}
		pool, err := r.pool(i, c.Address)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", c.Address, err)
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// Close ends all calls.
func (r *Router) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, pool := range r.pools {
		pool.close()
	}
}

// Count returns the number of open connections, over all addresses.
func (r *Router) Count() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pool := range r.pools {
		n += pool.open()
	}
	return n
}
