package rewrite

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	// Registers the descriptors that the plan is compiled from.
	_ "go.temporal.io/api/errordetails/v1"
	_ "go.temporal.io/api/operatorservice/v1"
	_ "go.temporal.io/api/update/v1"
	_ "go.temporal.io/api/workflowservice/v1"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// op is what the walk does with a field.
type op uint8

const (
	opUnknown         op = iota // the descriptor has no such field
	opSkip                      // a scalar, or a message that matters in the other direction only
	opSkipMessage               // a known message that cannot hold a payload, but fields unknown to this build might
	opMessage                   // leads to a payload
	opMapEntry                  // an entry of a map that leads to a payload: its key names what is below
	opPayload                   // a payload to decide about
	opSearchAttribute           // a payload that stays readable but may be refused (search attributes)
	opExempt                    // a payload that stays readable
	opFailure                   // a Temporal failure: its texts are sealed as one
	opNexusFailure              // a Nexus failure: sealed as the Temporal failure that the server makes of it
	opAny                       // a google.protobuf.Any
	opHistoryBlob               // a DataBlob that holds a serialized history
	opText                      // a string that is sealed as text
	opReadable                  // a string that stays readable but may be refused or redacted
	opFact                      // a string that is a fact
	opFactName                  // a message whose field 1 is a fact
	opToken                     // a task token
	opEndpoint                  // the name of a Nexus endpoint
	opNamespace                 // the name of a namespace
	opFailMessage               // Failure.message
	opFailStack                 // Failure.stack_trace
	opFailAttributes            // Failure.encoded_attributes
)

// isSite reports whether there is something to decide about in a field, or to look for.
func (o op) isSite() bool { return o >= opPayload && o <= opReadable }

// field is the plan for one field of one message at one path.
type field struct {
	op       op
	wire     protowire.Type // according to the descriptor
	packable bool           // a repeated scalar may also come packed
	once     uint8          // 1 + bit in the set of singular fields and oneofs seen; 0: may repeat
	fact     policy.FactSet
	na       policy.FactSet // facts that do not apply to a payload at this place
	summary  bool           // a summary that the server accepts only if it is short
	system   bool           // an input that the server reads itself, if its endpoint is the system endpoint
	child    *node
	known    *known // the fields of a message in a request that leads to no payload; nil in others
	kind     string
	path     string
}

// node is the plan for one message type at one path of a request or response.
type node struct {
	name   protoreflect.FullName
	desc   protoreflect.MessageDescriptor
	fields []field                     // by field number
	high   map[protowire.Number]*field // those from maxDense on
	sites  bool                        // it may hold something to seal, open or check
	scope  bool                        // its facts apply to the payloads below it
	memo   bool                        // an entry of a map in which an empty value deletes a key of the memo

	failure bool // it is a Failure
	system  bool // it calls a Nexus operation, which the server may run itself
	task    bool // it is a workflow's or an activity's task
	tasks   bool // it is a task, or holds one
}

// field returns the plan of a field by its number; nil if the descriptor has no such
// field.
func (n *node) field(num protowire.Number) *field {
	if int(num) < len(n.fields) {
		return &n.fields[num]
	}
	return n.high[num]
}

// maxDense bounds the table that is indexed by field numbers, since the descriptors
// of an upstream may have any number.
const maxDense = 4096

// Method is the plan for one RPC.
type Method struct {
	plan *plan
	// next is this RPC in the plan that replaced this one; nil for a method that no plan lists.
	next *atomic.Pointer[Method]

	name     string // "StartWorkflowExecution"
	full     string // "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"
	request  *node
	response *node
	poll     bool
	limits   bool // its response has the size limits of a namespace
	task     bool // a worker runs or replays its response, so no part may be redacted or kept sealed
	whole    bool // its response has everything opened that the policy opens, or fails
	result   bool // its caller waits for the response and can try again: it fails rather than stay sealed for now
	status   bool // its error responses may hold user data
	codec    bool // its payloads come without the message that they belong to
}

// Name returns the RPC's name without the service.
func (m *Method) Name() string { return m.name }

// RequestTouched reports whether a request may hold anything to decide about.
func (m *Method) RequestTouched() bool { return m.latest().request.sites }

// ResponseTouched reports whether a response may hold anything to open or to change.
func (m *Method) ResponseTouched() bool { return m.latest().response.sites || m.limits }

// AnswerSealed reports whether a response may hold anything sealed.
func (m *Method) AnswerSealed() bool { return m.latest().response.sites }

// latest returns this RPC in the plan that is in force.
func (m *Method) latest() *Method {
	for m.next != nil {
		n := m.next.Load()
		if n == nil {
			break
		}
		m = n
	}
	return m
}

// StatusTouched reports whether an error response may hold anything to open. Only
// queries, updates and multi-operations put user data there.
func (m *Method) StatusTouched() bool { return m.status }

// IsPoll reports whether the RPC is a worker's long poll for a task.
func (m *Method) IsPoll() bool { return m.poll }

// plan holds the methods of the services that are rewritten.
type plan struct {
	methods map[string]*Method
	status  *node
	files   *protoregistry.Files
	nested  *cache[nestedKey, *node] // plans for messages that an Any or a payload holds
	work    *int                     // of compiling it; nil once it is built

	knownLock sync.Mutex
	known     map[protoreflect.FullName]*known // by message type, for all places
}

// nestedKey is what such a plan depends on. Its path and name are up to callers, since
// one Any may hold another.
type nestedKey struct {
	method, path, name string
	response           bool
}

const (
	nestedPlans     = 1000
	nestedPlansSize = 16 << 20
)

// rewritten are the services whose every RPC is looked at.
var rewritten = []protoreflect.FullName{
	"temporal.api.workflowservice.v1.WorkflowService",
	"temporal.api.operatorservice.v1.OperatorService",
}

// newPlan compiles the plan of all rewritten services from descriptors. It returns an
// error if they do not fit, and never panics: an upstream may send any.
func newPlan(files *protoregistry.Files) (*plan, error) {
	p := &plan{methods: make(map[string]*Method), files: files, work: new(int),
		known: make(map[protoreflect.FullName]*known), nested: newCache[nestedKey, *node](nestedPlans, nestedPlansSize)}
	defer func() { p.work = nil }() // what is compiled later has a budget of its own
	for _, name := range rewritten {
		d, err := files.FindDescriptorByName(name)
		if err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
		service, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("plan: %s is not a service", name)
		}
		for i := range service.Methods().Len() {
			if err := p.addMethod(service.Methods().Get(i)); err != nil {
				return nil, err
			}
		}
	}
	status, err := p.messageType(msgStatus)
	if err != nil {
		return nil, err
	}
	p.status, err = p.compile("status", true, status, "status", "")
	return p, err
}

// messageType returns the descriptor of a message by its full name.
func (p *plan) messageType(name protoreflect.FullName) (protoreflect.MessageDescriptor, error) {
	d, err := p.files.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	m, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("plan: %s is not a message", name)
	}
	return m, nil
}

// addMethod compiles one RPC.
func (p *plan) addMethod(d protoreflect.MethodDescriptor) (err error) {
	name := string(d.Name())
	m := &Method{plan: p, next: new(atomic.Pointer[Method]), name: name, full: "/" + string(d.Parent().FullName()) + "/" + name}
	if m.request, err = p.compile(name, false, d.Input(), "", ""); err != nil {
		return err
	}
	if m.response, err = p.compile(name, true, d.Output(), "", ""); err != nil {
		return err
	}
	switch name {
	case "PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue":
		m.poll, m.task, m.whole = true, true, true
	case "DescribeNamespace":
		m.limits = true
	case "RespondWorkflowTaskCompleted", "StartWorkflowExecution": // the response may include a task
		m.task, m.whole = true, true
	case "GetWorkflowExecutionHistory": // workers replay it; for readers a policy may redact parts of it
		m.whole = true
	case "QueryWorkflow", "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate", "ExecuteMultiOperation":
		m.result, m.status = true, true // each may be repeated
	case "PollActivityExecution", "PollNexusOperationExecution":
		m.result = true
	}
	p.methods[m.full] = m
	return nil
}

// anyNode returns the plan for a message of this name within an Any at this path; nil
// if the name is unknown or its type does not compile.
func (p *plan) anyNode(f *field, name string, response bool, w *walk) (*node, error) {
	d, err := p.messageType(protoreflect.FullName(name))
	if err != nil {
		return nil, nil
	}
	return p.nestedNode(d, nestedKey{method: w.method, path: f.path, name: name, response: response}, w.meter)
}

// nestedNode returns the plan for a message that something in another message holds;
// nil if its type does not compile. The error is that of the meter.
func (p *plan) nestedNode(d protoreflect.MessageDescriptor, key nestedKey, m *meter) (*node, error) {
	if n, ok := p.nested.get(key); ok {
		return n, nil
	}
	c := compiler{plan: p, method: strings.Clone(key.method), response: key.response}
	n := c.message(d, key.path, "")
	if c.err != nil {
		return nil, nil
	}
	key.name = strings.Clone(key.name)
	size := c.size + len(key.name) + len(key.path)
	p.nested.add(key, n, size)
	return n, m.take(size)
}

// Method returns the plan of an RPC by its full name; nil if this build does not know
// it, or if its service is not rewritten.
func (r *Rewriter) Method(full string) *Method { return r.plan.Load().methods[full] }
