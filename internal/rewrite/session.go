package rewrite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
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
	// that might contain a payload.
	UnknownFields string
	// Shadow opens answers, and decides about requests but changes nothing in them. The default is false.
	Shadow bool
	// Accounts has each session keep account of what it opens, for audit records: see
	// Session.Account. The default is false.
	Accounts bool
	// Trial compares a candidate policy with the one in force; nil: there is none.
	Trial *policy.Trial
	// Sampler copies payloads in clear for a survey; nil: there is none.
	Sampler *Sampler
	Log     *slog.Logger // nil: slog.Default
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
	refusals lograte.Limiter // of shadow mode, by namespace
	accounts bool
	trial    *policy.Trial // nil: none
	sampler  *Sampler      // nil: none
	log      *slog.Logger
	tasks    *taskMemory
	sessions sync.Pool
	sealers  sync.Pool
	openers  sync.Pool
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
		trial: o.Trial, sampler: o.Sampler, log: o.Log, tasks: newTaskMemory()}
	r.plan.Store(p)
	r.Apply(State{Keys: o.Keys, Foreign: o.Foreign})
	if o.Policy != nil {
		r.Apply(State{Keys: o.Keys, Policy: o.Policy.Current(), Foreign: o.Foreign})
	}
	r.sessions.New = func() any { return new(Session) }
	r.sealers.New = func() any { return newSealer() }
	r.openers.New = func() any { return newOpener() }
	return r, nil
}

// Apply replaces the state for sessions that begin from now on.
func (r *Rewriter) Apply(s State) { r.state.Store(&s) }

// logUnknown logs once per RPC that requests hold fields which this build does not
// know.
func (r *Rewriter) logUnknown(method string, n int) {
	if _, seen := r.warned.LoadOrStore(method, true); !seen {
		r.log.Warn("requests contain fields that this release does not know; they cannot contain a payload, and pass; upgrade the proxy",
			slog.String("method", method), slog.Int("fields", n))
	}
}

// sampler is nil where calls are no traffic of workers and clients.
func (c *call) sampler() *Sampler {
	if c.method.codec {
		return nil
	}
	return c.rewriter.sampler
}

// Session seals the request of one RPC and opens its response. It is not safe for
// concurrent use, and must not be used after Done.
//
// Polls wait a minute for their answer, thousands at a time. So a sealer that changed nothing goes back to the pool once it
// has read the request, and an opener is taken when there is an answer.
type Session struct {
	call   call
	sealer *sealer // nil before the request, and after one in which nothing was sealed
	opener *opener // nil until there is an answer
	sealed Stats   // of the request
	meter  meter
	// bare is the request without the MAC of its task token.
	bare []byte
}

// call is what is known of an RPC besides its payloads.
type call struct {
	rewriter *Rewriter
	state    *State
	policy   *policy.Policy // the revision that decides about the whole call
	method   *Method
	caller   *policy.Caller
	reaches  func(namespace string) bool // nil: every namespace
	leadsTo  Endpoints                   // nil: it is not known of any endpoint
	meter    *meter                      // of the session, or of the one around it

	namespace string
	facts     [5]string // that the request itself contains, indexed by bitOf
	run       string    // that the request names, if accounts are kept
	task      *task     // the remembered task that a request answers
	mac       []byte    // of the task token of a request; see vouched
	checked   bool      // the MAC was verified: whether it is genuine
	genuine   bool
	reads     bool // the caller shows answers to people, and replays none
}

// newSealer returns a sealer without a session for the pool.
func newSealer() *sealer {
	s := new(sealer)
	s.decider.message = &s.message
	s.opened = func(n int) error { return s.call.opens(n) }
	s.foreignRun = foreign.NewRun(s.opened)
	return s
}

// sealerOf returns the sealer of a session, and takes one from the pool if it has none.
func (r *Rewriter) sealerOf(s *Session) *sealer {
	if s.sealer == nil {
		w := r.sealers.Get().(*sealer)
		w.call, w.decider.call = &s.call, &s.call
		w.message.walk.meter = s.call.meter
		w.stats = &s.sealed
		s.sealer = w
	}
	return s.sealer
}

// takeBack returns the sealer of a session to the pool. Nothing that it returned may be used any more but the request as it was
// walked, which is in no memory of the sealer.
func (r *Rewriter) takeBack(s *Session) (walked []byte) {
	w := s.sealer
	walked, s.sealer = w.message.walk.buf, nil
	w.reset()
	r.sealers.Put(w)
	return walked
}

// newOpener returns an opener without a session for the pool.
func newOpener() *opener {
	o := new(opener)
	o.decider.message = &o.message
	o.stats.reset()
	o.opened = func(n int) error { return o.call.opens(n) }
	return o
}

// opening returns the session's opener, and takes one from the pool if it has none.
func (s *Session) opening() *opener {
	if s.opener == nil {
		o := s.call.rewriter.openers.Get().(*opener)
		o.call, o.decider.call = &s.call, &s.call
		o.message.walk.meter = s.call.meter
		s.opener = o
	}
	return s.opener
}

// Begin starts a session. caller may be nil.
func (r *Rewriter) Begin(m *Method, caller *policy.Caller) *Session {
	state := r.state.Load()
	return r.begin(call{rewriter: r, state: state, policy: state.Policy, method: m.latest(), caller: caller})
}

// begin takes a session from the pool.
func (r *Rewriter) begin(c call) *Session {
	s := r.sessions.Get().(*Session)
	s.call = c
	if c.meter == nil {
		s.call.meter = &s.meter
	}
	s.sealed.reset()
	return s
}

// Done returns the session's memory to the pool. Nothing that the session returned
// may be used any more.
func (s *Session) Done() {
	r := s.call.rewriter
	if s.sealer != nil {
		r.takeBack(s)
	}
	if o := s.opener; o != nil {
		s.opener = nil
		o.reset()
		r.openers.Put(o)
	}
	s.call, s.meter = call{}, meter{}
	clear(s.bare)
	s.bare = bounded(s.bare)[:0]
	r.sessions.Put(s)
}

// Namespace returns the namespace that the request names, or that of its task; "" if
// neither is known.
func (s *Session) Namespace() string { return s.call.namespace }

// Method returns the method as metrics and log lines name it: "temporal.api.workflowservice.v1.WorkflowService/...".
func (s *Session) Method() string { return s.call.method.full[1:] }

// WorkflowID returns that of the request, if it has one, or that of the task which
// answered a poll.
func (s *Session) WorkflowID() string { return s.call.facts[workflowID] }

// WorkflowType is like WorkflowID.
func (s *Session) WorkflowType() string { return s.call.facts[workflowType] }

// WorkflowRun returns the run that the request names, if accounts are kept.
func (s *Session) WorkflowRun() string { return s.call.run }

// Revision returns that of the policy which decides about this call.
func (s *Session) Revision() string { return s.call.policy.Revision() }

// NamedKeys returns the keys that the policy names for the call's namespace.
func (s *Session) NamedKeys() []string { return s.call.policy.NamedKeys(s.call.namespace) }

// Undecided returns why the policy decides nothing in the call's namespace; nil if it does.
func (s *Session) Undecided() error {
	if err := s.call.policy.Held(s.call.namespace); err != nil {
		return s.call.fail(KindPolicy, "", err)
	}
	return nil
}

// Superseded reports whether another policy has come into force since the call began.
func (s *Session) Superseded() bool { return s.call.rewriter.state.Load() != s.call.state }

// RequestStats returns counts that are complete after Request.
func (s *Session) RequestStats() *Stats { return &s.sealed }

// ResponseStats returns counts that are complete after Response or Status.
func (s *Session) ResponseStats() *Stats { return &s.opening().stats }

// Account returns what happened to the sealed payloads of the response, if the
// Rewriter keeps accounts. If the response failed as a whole, it lists none as
// opened. It is valid until Done.
func (s *Session) Account() []Handled {
	if s.opener == nil {
		return nil
	}
	return s.opener.account
}

// Restrict has Request refuse whatever acts in another namespace than that of the
// call, unless reaches returns true for it: a child started there, a signal or a
// cancellation sent there, an operation within a multi-operation. The server would
// act with rights of its own.
func (s *Session) Restrict(reaches func(namespace string) bool) { s.call.reaches = reaches }

// ResolveEndpoints has Request find out to which namespaces Nexus endpoints lead: the server copies the input of an operation
// there. Without it, none is known.
func (s *Session) ResolveEndpoints(e Endpoints) { s.call.leadsTo = e }

// Identify reads the namespace and what the request contains about the workflow. As
// in every decoder, the last of repeated fields counts.
func (s *Session) Identify(in []byte) error {
	c, root := &s.call, s.call.method.request
	var token []byte
	var failed error
	r := wire.Read(in)
	for r.Next() {
		f := root.field(r.Number())
		if f == nil || f.wire != r.Type() {
			continue
		}
		switch f.op {
		case opNamespace:
			c.namespace = string(r.Value())
		case opToken:
			token = r.Value()
		case opFact:
			c.facts[bitOf(f.fact)] = string(r.Value())
		case opFactName:
			from, to := r.Bounds()
			from, to, err := wire.FirstString(in, from, to)
			failed = cmp.Or(err, failed)
			c.facts[bitOf(f.fact)] = string(in[from:to])
			if c.rewriter.accounts && f.fact == policy.FactWorkflowID {
				c.run = runOf(r.Value())
			}
		}
	}
	if err := errors.Join(r.Err(), failed); err != nil {
		return c.fail(KindMalformed, "", fmt.Errorf("the request is not a %s: %w", root.name.Name(), err))
	}
	return c.identifyTask(token)
}

// identifyTask looks up the task that a request answers. A request that names another
// namespace than that of the task is refused: the verdict and the key would be the
// wrong ones.
func (c *call) identifyTask(token []byte) error {
	if len(token) == 0 {
		return nil
	}
	token, c.mac = splitToken(token)
	owner := ""
	if c.task = c.rewriter.tasks.recall(token); c.task != nil {
		owner = c.task.namespace
		for _, i := range [...]int{workflowID, workflowType} {
			c.facts[i] = cmp.Or(c.facts[i], c.task.facts.values[i])
		}
	} else {
		owner = c.rewriter.tasks.namespaceOf(token)
	}
	switch {
	case c.namespace == "":
		c.namespace = owner
	case owner != "" && owner != c.namespace:
		return c.fail(KindDenied, "task_token",
			fmt.Errorf("the task is of another namespace than %q, which the request names", c.namespace))
	}
	return nil
}

// runOf returns the run in a serialized WorkflowExecution.
func runOf(execution []byte) (run string) {
	for r := wire.Read(execution); r.Next(); { // the walk refuses malformed messages
		if r.Number() == 2 && r.Bytes() {
			run = string(r.Value())
		}
	}
	return run
}

// fail returns an error about a path of the message; "" stands for the whole.
func (c *call) fail(kind Kind, path string, err error) *Error {
	return &Error{Kind: kind, RPC: c.method.name, Path: path, Err: err}
}

// stillWanted returns an error if the caller has left. It looks now and then: i counts the
// payloads of a request.
func (c *call) stillWanted(ctx context.Context, i int) error {
	if i%256 == 255 && ctx.Err() != nil {
		return c.fail(KindSealing, "", ctx.Err())
	}
	return nil
}

// asError returns an error that has a kind as it is, and gives others this kind.
func (c *call) asError(kind Kind, path string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return c.fail(kind, path, err)
}
