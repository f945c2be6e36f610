package rewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
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

// Stats count what happened to one message.
type Stats struct {
	Payloads int      // payloads sealed or opened
	Bytes    int      // of these, as they came
	Passed   int      // left as they were
	Unopened int      // answers: could not be opened and stay sealed
	Later    int      // of these, by a cause that may pass by itself
	Keys     []string // the keys used, each once
	CacheHit bool     // every data key was at hand
}

func (s *Stats) reset() { *s = Stats{Keys: s.Keys[:0], CacheHit: true} }

func (s *Stats) used(key string, size int, hit bool) {
	s.Payloads++
	s.Bytes += size
	s.CacheHit = s.CacheHit && hit
	for _, k := range s.Keys {
		if k == key {
			return
		}
	}
	// A call's buffers serve the next one: mostly the same key's name stands there already.
	if n := len(s.Keys); n < cap(s.Keys) && s.Keys[:n+1][n] == key {
		s.Keys = s.Keys[:n+1]
		return
	}
	s.Keys = append(s.Keys, strings.Clone(key))
}

// add counts what happened to a message within a message.
func (s *Stats) add(o *Stats) {
	for _, key := range o.Keys {
		s.used(key, 0, o.CacheHit)
		s.Payloads--
	}
	s.Payloads += o.Payloads
	s.Bytes += o.Bytes
	s.Passed += o.Passed
	s.Unopened += o.Unopened
	s.Later += o.Later
}

// Call is one RPC on its way through. It is not safe for concurrent use, and
// not to be used after Done.
type Call struct {
	r      *Rewriter
	method *Method
	caller *policy.Caller
	policy *policy.Policy

	namespace    string
	workflowID   string
	workflowType string
	taskQueue    string
	task         *task // what is remembered of the task that a request answers

	reaches func(namespace string) bool // nil: every namespace

	request, response Stats
	account           []Handled
	workflowRun       string

	walk  walk
	edits []edit
	arena []byte // what replaces payloads, before it is put in place
	plans []sealing
	asked question
	opens []opening
	run   keyring.Run
	// carriers holds the headers of what opens refers to.
	carriers keyring.Carriers
	// others and theirs are what is known of other tools' payloads, for any namespace and for the call's.
	others   *foreign.Reader
	theirs   *foreign.Namespace
	theirRun foreign.Run
	// systems are the slots of an answer whose payload holds a message with payloads of its own.
	systems []int32
	in      policy.Input
	sent    tail // the request that is forwarded
	opened  tail // the answer
}

// Begin starts a call and picks the policy's revision for the whole of it.
// caller may be nil.
func (r *Rewriter) Begin(m *Method, caller *policy.Caller) *Call {
	c := r.calls.Get().(*Call)
	m = m.latest()
	c.r, c.method, c.caller, c.policy, c.others = r, m, caller, r.policy.Current(), r.foreign.Load()
	c.namespace, c.workflowID, c.workflowType, c.taskQueue, c.task = "", "", "", "", nil
	c.request.reset()
	c.response.reset()
	c.account, c.workflowRun = c.account[:0], ""
	c.walk.plan, c.walk.method = m.plan, m.name
	return c
}

// Done gives the call's buffers back. Nothing that it returned may be used
// any more.
func (c *Call) Done() {
	if c.request.Passed > 0 || c.request.Payloads == 0 { // else it holds nothing that is not sealed
		c.sent.wipe()
	}
	c.opened.wipe()
	c.sent.buf, c.opened.buf = keep(c.sent.buf), keep(c.opened.buf)
	c.sent.low, c.opened.low = len(c.sent.buf), len(c.opened.buf)
	clear(c.arena)
	c.arena = keep(c.arena)[:0]
	c.walk.reset(nil)
	c.in = policy.Input{}
	clear(c.plans)
	clear(c.edits)
	clear(c.opens)
	c.carriers.Reset()
	c.plans, c.edits, c.opens, c.systems = keepList(c.plans), keepList(c.edits), keepList(c.opens), keepList(c.systems)
	w := &c.walk
	w.slots, w.boxes, w.scopes, w.failures = keepList(w.slots), keepList(w.boxes), keepList(w.scopes), keepList(w.failures)
	c.policy, c.caller, c.task, c.reaches, c.run = nil, nil, nil, nil, keyring.Run{}
	c.others, c.theirs, c.theirRun = nil, nil, foreign.Run{}
	if c.asked.f != nil {
		c.asked = question{}
	}
	c.r.calls.Put(c)
}

// keep lets go of a buffer that one large message made grow.
func keep(b []byte) []byte {
	const largest = 4 << 20
	if cap(b) > largest {
		return nil
	}
	return b
}

// keepList is keep for a list of what was found.
func keepList[T any](l []T) []T {
	const most = 1 << 14
	if cap(l) > most {
		return nil
	}
	return l[:0]
}

// Namespace is the one that the request names, or that its task is of; ""
// where it names none.
func (c *Call) Namespace() string { return c.namespace }

// WorkflowID is the request's, where it tells one, or that of the task which a
// poll was answered with.
func (c *Call) WorkflowID() string { return c.workflowID }

// WorkflowType is like WorkflowID.
func (c *Call) WorkflowType() string { return c.workflowType }

// Revision is that of the policy that decides this call.
func (c *Call) Revision() string { return c.policy.Revision() }

// NamedKeys are the keys that the policy spells out for the call's namespace.
func (c *Call) NamedKeys() []string { return c.policy.NamedKeys(c.namespace) }

// RequestStats are complete after Request.
func (c *Call) RequestStats() *Stats { return &c.request }

// ResponseStats are complete after Response or Status.
func (c *Call) ResponseStats() *Stats { return &c.response }

// Identify reads the namespace and what the request itself tells about the
// workflow. As in every decoder the last of repeated fields counts.
func (c *Call) Identify(in []byte) error {
	root := c.method.request
	var token []byte
	var failed error
	err := eachField(in, 0, len(in), func(num protowire.Number, wire protowire.Type, _, _, from, to int) {
		f := root.field(num)
		if f == nil || f.wire != wire {
			return
		}
		switch f.op {
		case opNamespace:
			c.namespace = string(in[from:to])
		case opToken:
			token = in[from:to]
		case opFact, opFactName:
			v := span{int32(from), int32(to)}
			if f.op == opFactName {
				var err error
				if v, err = firstString(in, from, to); err != nil {
					failed = err
				}
			}
			c.identified(f.fact, string(v.of(in)))
			if c.r.accounts && f.op == opFactName && f.fact == policy.FactWorkflowID {
				c.workflowRun = runOf(in[from:to])
			}
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return c.fail(KindMalformed, "", fmt.Errorf("the request is not a %s: %w", root.name.Name(), err))
	}
	return c.identifyTask(token)
}

func (c *Call) identified(fact policy.FactSet, value string) {
	switch fact {
	case policy.FactWorkflowID:
		c.workflowID = value
	case policy.FactWorkflowType:
		c.workflowType = value
	case policy.FactTaskQueue:
		c.taskQueue = value
	}
}

// identifyTask finds what is known of the task that a request answers. A
// token of one namespace in a request that names another is refused: the
// verdict and the key would be the wrong ones.
func (c *Call) identifyTask(token []byte) error {
	if len(token) == 0 {
		return nil
	}
	owner := ""
	if c.task = c.r.memory.recall(token); c.task != nil {
		owner = c.task.namespace
		if c.workflowID == "" {
			c.workflowID = c.task.values[0]
		}
		if c.workflowType == "" {
			c.workflowType = c.task.values[1]
		}
	} else {
		owner = c.r.memory.namespaceOf(token)
	}
	switch {
	case c.namespace == "":
		c.namespace = owner
	case owner != "" && owner != c.namespace:
		return c.fail(KindDenied, "task_token", fmt.Errorf("the task is of another namespace than %q, which the request names", c.namespace))
	}
	return nil
}

func (c *Call) fail(kind Kind, path string, err error) *Error {
	return &Error{Kind: kind, RPC: c.method.name, Path: path, Err: err}
}

// asError keeps an error that tells its kind already.
func (c *Call) asError(kind Kind, path string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return c.fail(kind, path, err)
}

// find walks a message and leaves its slots in c.walk. It gives the message
// in the regular form if it was not, and a nil message if there is nothing to
// decide about.
func (c *Call) find(n *node, in []byte, response bool) error {
	w := &c.walk
	w.response, w.strict = response, c.r.strict && !response
	w.reset(in)
	if err := w.run(n); err != nil {
		return c.unwalkable(n, err)
	}
	if w.irregular && w.refused == nil {
		regular, err := regularForm(n.desc, in)
		if err != nil {
			return c.fail(KindMalformed, "", fmt.Errorf("the bytes are not a %s: %w", n.name.Name(), err))
		}
		w.reset(regular)
		if err := w.run(n); err != nil {
			return c.unwalkable(n, err)
		}
	}
	if w.refused != nil {
		return w.refused
	}
	if w.irregular {
		return c.fail(KindMalformed, "", errors.New("a field that counts once comes more than once within a packed message"))
	}
	return nil
}

// unwalkable is the error for a message that the walk gave up.
func (c *Call) unwalkable(n *node, err error) error {
	if errors.Is(err, errSlots) {
		return c.fail(KindTooLarge, "", fmt.Errorf("%w; split it", err))
	}
	return c.fail(KindMalformed, "", fmt.Errorf("the bytes are not a %s: %w", n.name.Name(), err))
}

// facts fills in what is known about the payloads of a scope.
func (c *Call) facts(s *slot) {
	w := &c.walk
	in := &c.in
	values := [5]*string{&in.WorkflowID, &in.WorkflowType, &in.TaskQueue, &in.ActivityID, &in.ActivityType}
	in.Known, in.NotApplicable = 0, s.f.na
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		sc := &w.scopes[i]
		if sc.known == 0 {
			continue
		}
		for bit, v := range values {
			fact := policy.FactSet(1) << bit
			if sc.known&^in.Known&fact != 0 {
				*v = alias(sc.facts[bit].of(w.buf))
				in.Known |= fact
			}
		}
	}
	if c.task != nil {
		in.NotApplicable |= c.task.na
		for bit, v := range values {
			fact := policy.FactSet(1) << bit
			if c.task.known&fact != 0 && in.Known&fact == 0 {
				*v = c.task.values[bit]
				in.Known |= fact
			}
		}
	} else if root := &w.scopes[0]; !root.token.empty() && !w.response {
		if t, ok := readToken(root.token.of(w.buf)); ok {
			for bit, v := range values {
				fact := policy.FactSet(1) << bit
				if len(t.facts[bit]) > 0 && in.Known&fact == 0 {
					*v = alias(t.facts[bit])
					in.Known |= fact
				}
			}
		}
	}
	in.NotApplicable &^= in.Known
}

// decide asks the policy about one slot.
func (c *Call) decide(ctx context.Context, d policy.Direction, s *slot, h head) (policy.Verdict, error) {
	in := &c.in
	in.Kind, in.Path, in.Name = s.f.kind, s.f.path, alias(s.name.of(c.walk.buf))
	in.Encoding, in.Type, in.Data = h.encoding, h.messageType, h.data
	decide := c.policy.Decide
	if c.method.apart {
		decide = c.policy.DecideApart
	}
	v, err := decide(ctx, d, in)
	if err != nil {
		return v, c.fail(KindPolicy, s.f.path, err)
	}
	return v, nil
}

func (c *Call) describe() {
	c.in = policy.Input{Namespace: c.namespace, RPC: c.method.name, Caller: c.caller}
}

// remember keeps what is known of the tasks in an answer, for the requests
// that will answer them.
func (c *Call) remember() {
	w := &c.walk
	for i := range w.scopes {
		sc := &w.scopes[i]
		if !sc.task || sc.token.empty() {
			continue
		}
		t := &task{namespace: strings.Clone(c.namespace)}
		for j := int32(i); j >= 0; j = w.scopes[j].parent {
			for bit := range t.values {
				fact := policy.FactSet(1) << bit
				if w.scopes[j].known&fact != 0 && t.known&fact == 0 {
					t.set(bit, string(w.scopes[j].facts[bit].of(w.buf)))
				}
			}
		}
		if t.known&policy.FactTaskQueue == 0 && c.taskQueue != "" && c.method.poll {
			t.set(2, c.taskQueue)
		}
		if t.known&policy.FactWorkflowID == 0 || t.values[0] == "" { // a standalone activity
			t.na = policy.FactWorkflowID | policy.FactWorkflowType
			t.known &^= t.na
		}
		if c.method.poll { // the poll did not know what it would be handed; its span is told
			c.workflowID, c.workflowType = t.values[0], t.values[1]
		}
		c.r.memory.remember(sc.token.of(w.buf), t)
	}
}
