package rewrite

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

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

// Restrict has Request refuse what acts in another namespace than the call's,
// unless reaches says that the caller gets there: a child started there, a
// signal or a cancellation sent there, an operation within a
// multi-operation. The server acts on them with rights of its own.
func (c *Call) Restrict(reaches func(namespace string) bool) { c.reaches = reaches }

// withinReach looks at each namespace that the walked request addresses.
// Messages that only tell of another namespace, such as links, hold nothing
// to seal and are not among them.
func (c *Call) withinReach() error {
	if c.reaches == nil || c.walk.response {
		return nil
	}
	w := &c.walk
	for i := range w.scopes {
		name := w.scopes[i].namespace
		if name.empty() || string(name.of(w.buf)) == c.namespace || c.reaches(string(name.of(w.buf))) {
			continue
		}
		return c.fail(KindDenied, "namespace", fmt.Errorf("it acts in the namespace %q, which this caller does not reach", name.of(w.buf)))
	}
	return nil
}

// Account tells what became of the sealed payloads in the answer, if the
// Rewriter was made to keep accounts. What a caller did not get, since the
// answer failed as a whole, does not stand in it as opened. It lives until Done.
func (c *Call) Account() []Handled { return c.account }

// WorkflowRun is the run that the request names, where an account is kept.
func (c *Call) WorkflowRun() string { return c.workflowRun }

// runOf gives the run in a serialised WorkflowExecution.
func runOf(b []byte) (run string) {
	_ = eachField(b, 0, len(b), func(num protowire.Number, wire protowire.Type, _, _, from, to int) { // what is malformed is refused elsewhere
		if num == 2 && wire == protowire.BytesType {
			run = string(b[from:to])
		}
	})
	return run
}
