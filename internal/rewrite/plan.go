package rewrite

import (
	"fmt"
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

// op says what the walker does with a field.
type op uint8

const (
	opUnknown         op = iota // the descriptor has no such field
	opSkip                      // a scalar, or a message that the other direction cares about
	opSkipMessage               // a known message that cannot hold a payload, but fields unknown to this build might
	opMessage                   // leads to a payload
	opMapEntry                  // an entry of a map that leads to a payload: its key names what is below
	opPayload                   // a payload to decide about
	opSearchAttribute           // a payload that stays readable but may be refused (search attributes)
	opExempt                    // a payload that stays readable
	opFailure                   // a Temporal failure: its texts are sealed as one
	opNexusFailure              // a Nexus failure: sealed as the Temporal failure that the server makes of it
	opAny                       // a google.protobuf.Any
	opHistoryBlob               // a DataBlob that holds a serialised history
	opText                      // a string that is sealed as text
	opReason                    // a string that may be refused or redacted
	opFact                      // a string that is a fact
	opFactName                  // a message whose field 1 is a fact
	opToken                     // a task token
	opEndpoint                  // the name of a Nexus endpoint
	opNamespace                 // the name of a namespace
	opFailMessage               // Failure.message
	opFailStack                 // Failure.stack_trace
	opFailAttributes            // Failure.encoded_attributes
)

// field is what the plan knows about one field of one message at one place.
type field struct {
	op       op
	wire     protowire.Type // as the descriptor has it
	packable bool           // a repeated scalar may also come packed
	once     uint8          // 1 + bit in the set of singular fields and oneofs seen; 0: may repeat
	fact     policy.FactSet
	kind     string
	path     string
	na       policy.FactSet // facts that do not apply to a payload at this place
	child    *node
	summary  bool // a summary that the server takes only if it is short
	system   bool // an input of which the endpoint beside it says whether the server reads it
}

// node is the plan for one message type at one place of one RPC's message.
type node struct {
	name   protoreflect.FullName
	desc   protoreflect.MessageDescriptor
	fields []field                     // by field number
	high   map[protowire.Number]*field // those from maxDense on
	sites  bool                        // something to seal, open or check can be below
	scope  bool                        // facts in this message are about the payloads below it
	memo   bool                        // values of this map entry delete memo keys when they are empty

	failure bool // it is a Failure
	task    bool // it is a workflow's or an activity's task
}

func (n *node) field(num protowire.Number) *field {
	if int(num) < len(n.fields) {
		return &n.fields[num]
	}
	return n.high[num]
}

// maxDense bounds the table that a field's number indexes, whatever number an
// upstream's descriptors bring.
const maxDense = 4096

// Method is the plan for one RPC.
type Method struct {
	plan *plan
	// next is this RPC in the plan that took this one's place; nil for a method that stands for itself.
	next *atomic.Pointer[Method]

	name     string // "StartWorkflowExecution"
	full     string // "/temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"
	request  *node
	response *node
	poll     bool
	limits   bool // its answer tells the sizes that a namespace accepts
	task     bool // its answer is run or replayed by a worker: a policy can't have parts of it redacted or kept sealed
	whole    bool // its answer is given with everything opened that the policy opens, or not at all
	result   bool // its answer is what its caller goes on with: rather none for now than one that is sealed still
	status   bool // its error answers can hold user data
	apart    bool // its payloads stand in no message that tells what they are
}

// Name is the RPC's name without the service.
func (m *Method) Name() string { return m.name }

// RequestTouched tells whether a request can hold anything to decide about.
func (m *Method) RequestTouched() bool { return m.latest().request.sites }

// ResponseTouched tells whether an answer can hold anything to open.
func (m *Method) ResponseTouched() bool { return m.latest().response.sites || m.limits }

// AnswerSealed tells whether an answer can hold anything sealed.
func (m *Method) AnswerSealed() bool { return m.latest().response.sites }

// latest is this RPC in the plan that is in force.
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

// StatusTouched tells whether an error answer can hold anything to open: only
// queries, updates and multi-operations put user data there.
func (m *Method) StatusTouched() bool { return m.status }

// IsPoll tells whether the RPC is a worker's long poll for a task.
func (m *Method) IsPoll() bool { return m.poll }

// plan holds the methods of the services that are rewritten.
type plan struct {
	methods map[string]*Method
	status  *node
	files   *protoregistry.Files
	anys    sync.Map // anyKey -> *node: plans for messages found within an Any
}

type anyKey struct {
	method, path, name string
	response           bool
}

// rewritten are the services whose every RPC is looked at.
var rewritten = []protoreflect.FullName{
	"temporal.api.workflowservice.v1.WorkflowService",
	"temporal.api.operatorservice.v1.OperatorService",
}

func newPlan(files *protoregistry.Files) (*plan, error) {
	p := &plan{methods: make(map[string]*Method), files: files}
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
	case "RespondWorkflowTaskCompleted", "StartWorkflowExecution": // a task may come along
		m.task, m.whole = true, true
	case "GetWorkflowExecutionHistory": // workers replay it; readers see it too, for whom a policy may redact
		m.whole = true
	case "QueryWorkflow", "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate", "ExecuteMultiOperation":
		m.result, m.status = true, true // each may be asked again
	case "PollActivityExecution", "PollNexusOperationExecution":
		m.result = true
	}
	p.methods[m.full] = m
	return nil
}

// anyNode gives the plan for a message of this name within an Any at this
// path; nil if the name is not known, or if its type cannot be compiled.
func (p *plan) anyNode(f *field, name []byte, response bool, method string) *node {
	key := anyKey{method: method, path: f.path, name: string(name), response: response}
	if n, ok := p.anys.Load(key); ok {
		return n.(*node)
	}
	d, err := p.messageType(protoreflect.FullName(key.name))
	if err != nil {
		return nil
	}
	compiled, err := p.compile(method, response, d, f.path, "")
	if err != nil {
		return nil
	}
	n, _ := p.anys.LoadOrStore(key, compiled)
	return n.(*node)
}

// Method returns the plan of an RPC by its full name; nil if this build does not
// know it, or if its service is not rewritten.
func (r *Rewriter) Method(full string) *Method { return r.plan.Load().methods[full] }
