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

// Options configure a Rewriter. Keys and Policy are required, except for a Rewriter
// that only visits payloads.
type Options struct {
	Keys   *keyring.Keyring
	Policy *policy.Engine // the policy that it holds now is in force until Apply
	// Foreign reads payloads that other tools encoded; nil: there are none.
	Foreign *foreign.Reader
	// UnknownFields is "lenient", the default, or "strict". A strict Rewriter refuses
	// every request field that this build does not know; a lenient one refuses those
	// that might hold a payload.
	UnknownFields string
	// Shadow decides and counts, but changes nothing. The default is false.
	Shadow bool
	// Accounts has each session keep account of what it opens, for audit records: see
	// Session.Account. The default is false.
	Accounts bool
	Log      *slog.Logger // nil: slog.Default
}

// State is what decides about payloads, seals and opens them. It is immutable. A
// session uses one State from its start to its end.
type State struct {
	Keys   *keyring.Keyring
	Policy *policy.Policy
	// Foreign reads payloads that other tools encoded; nil: there are none.
	Foreign *foreign.Reader
}

// Rewriter seals requests and opens answers. It is safe for concurrent use.
type Rewriter struct {
	plan     atomic.Pointer[plan]
	state    atomic.Pointer[State]
	codec    map[string]*Method // by RPCEncode and RPCDecode
	strict   bool
	shadow   bool
	accounts bool
	log      *slog.Logger
	tasks    *taskMemory
	sessions sync.Pool
	// joining serializes Join.
	joining sync.Mutex
	warned  sync.Map // RPCs whose fields that this build does not know have been logged
}

// New returns a Rewriter with a plan compiled from the descriptors that are linked
// into the binary.
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
	codec, err := codecMethods(p)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &Rewriter{codec: codec, strict: o.UnknownFields == "strict", shadow: o.Shadow, accounts: o.Accounts,
		log: o.Log, tasks: newTaskMemory()}
	r.plan.Store(p)
	r.Apply(State{Keys: o.Keys, Foreign: o.Foreign})
	if o.Policy != nil {
		r.Apply(State{Keys: o.Keys, Policy: o.Policy.Current(), Foreign: o.Foreign})
	}
	r.sessions.New = func() any { return newSession(r) }
	return r, nil
}

// Apply replaces the state for sessions that begin from now on.
func (r *Rewriter) Apply(s State) { r.state.Store(&s) }

// logUnknown logs once per RPC that requests hold fields which this build does not
// know.
func (r *Rewriter) logUnknown(rpc string, n int) {
	if _, seen := r.warned.LoadOrStore(rpc, true); !seen {
		r.log.Warn("requests hold fields that this release does not know; they cannot hold a payload and pass; upgrade the proxy",
			slog.String("rpc", rpc), slog.Int("fields", n))
	}
}
