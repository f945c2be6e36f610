package rewrite

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Options are what a Rewriter works with.
type Options struct {
	Keys   *keyring.Keyring
	Policy *policy.Engine
	// Foreign reads what other tools encoded; nil: nothing of it.
	Foreign *foreign.Reader
	// UnknownFields is "lenient" (a request field unknown to this build is refused only if it could hold a payload) or
	// "strict" (it is refused). "" means lenient.
	UnknownFields string
	// Shadow decides and counts, but changes nothing.
	Shadow bool
	// Accounts has each call keep account of what it opens: see Call.Account.
	Accounts bool
	Log      *slog.Logger // nil: slog.Default
}

// Rewriter seals requests and opens answers. It is safe for concurrent use.
type Rewriter struct {
	plan     atomic.Pointer[plan]
	apart    apartMethods
	keys     *keyring.Keyring
	policy   *policy.Engine
	strict   bool
	shadow   bool
	accounts bool
	log      *slog.Logger
	memory   *memory
	// foreign is swapped when the configuration changes.
	foreign atomic.Pointer[foreign.Reader]
	calls   sync.Pool
	// joining keeps two answers of an upstream's reflection from being joined at once.
	joining sync.Mutex
	warned  sync.Map // fields that this build does not know and that have been logged
}

// New compiles the plan from the descriptors that are linked into the binary.
func New(o Options) (*Rewriter, error) {
	switch o.UnknownFields {
	case "", "lenient", "strict":
	default:
		return nil, fmt.Errorf("unknown_fields: %q is neither lenient nor strict", o.UnknownFields)
	}
	p, err := newPlan(protoregistry.GlobalFiles)
	if err != nil {
		return nil, err
	}
	apart, err := newApartMethods(p)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &Rewriter{apart: apart, keys: o.Keys, policy: o.Policy, strict: o.UnknownFields == "strict", shadow: o.Shadow, accounts: o.Accounts,
		log: o.Log, memory: newMemory()}
	r.plan.Store(p)
	r.foreign.Store(o.Foreign)
	r.calls.New = func() any { return new(Call) }
	return r, nil
}

// ReadForeign takes over another reader of other tools' payloads, for the calls
// that begin from now on.
func (r *Rewriter) ReadForeign(others *foreign.Reader) { r.foreign.Store(others) }

// Method gives the plan of an RPC by its full name; nil if this build does not
// know it, or if its service is not rewritten.
func (r *Rewriter) Method(full string) *Method { return r.plan.Load().methods[full] }

// IsRewritten tells whether a service is one whose every RPC must be known to
// be forwarded: the name without slashes.
func IsRewritten(service string) bool {
	for _, s := range rewritten {
		if string(s) == service {
			return true
		}
	}
	return false
}

// noteUnknown logs once per RPC that requests hold fields which this build
// does not know.
func (r *Rewriter) noteUnknown(rpc string, n int) {
	if _, seen := r.warned.LoadOrStore(rpc, true); !seen {
		r.log.Warn("requests hold fields that this release does not know; they cannot hold a payload and pass; upgrade the proxy",
			slog.String("rpc", rpc), slog.Int("fields", n))
	}
}
