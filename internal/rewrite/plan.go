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

// op says what the walker does with a field.
type op uint8

const (
	opUnknown        op = iota // the descriptor has no such field
	opSkip                     // a scalar, or a message that the other direction cares about
	opSkipMessage              // a known message that cannot hold a payload, but fields unknown to this build might
	opMessage                  // leads to a payload
	opMapEntry                 // an entry of a map that leads to a payload: its key names what is below
	opPayload                  // a payload to decide about
	opAsk                      // a payload that stays readable but may be refused (search attributes)
	opExempt                   // a payload that stays readable
	opFailure                  // a Temporal failure: its texts are sealed as one
	opNexusFailure             // a Nexus failure: sealed as the Temporal failure that the server makes of it
	opAny                      // a google.protobuf.Any
	opHistoryBlob              // a DataBlob that holds a serialised history
	opText                     // a string that is sealed as text
	opReason                   // a string that may be refused or redacted
	opFact                     // a string that is a fact
	opFactName                 // a message whose field 1 is a fact
	opToken                    // a task token
	opEndpoint                 // the name of a Nexus endpoint
	opNamespace                // the name of a namespace
	opFailMessage              // Failure.message
	opFailStack                // Failure.stack_trace
	opFailAttributes           // Failure.encoded_attributes
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
func (m *Method) StatusTouched() bool {
	switch m.name {
	case "QueryWorkflow", "ExecuteMultiOperation", "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate":
		return true
	}
	return false
}

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
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			p.addMethod(methods.Get(i))
		}
	}
	d, err := files.FindDescriptorByName(msgStatus)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	c := compiler{plan: p, method: "status", response: true}
	p.status = c.message(d.(protoreflect.MessageDescriptor), "status", "")
	return p, nil
}

func (p *plan) addMethod(d protoreflect.MethodDescriptor) {
	name := string(d.Name())
	m := &Method{plan: p, next: new(atomic.Pointer[Method]), name: name, full: "/" + string(d.Parent().FullName()) + "/" + name}
	request := compiler{plan: p, method: name}
	m.request = request.message(d.Input(), "", "")
	response := compiler{plan: p, method: name, response: true}
	m.response = response.message(d.Output(), "", "")
	switch name {
	case "PollWorkflowTaskQueue", "PollActivityTaskQueue", "PollNexusTaskQueue":
		m.poll, m.task, m.whole = true, true, true
	case "DescribeNamespace":
		m.limits = true
	case "RespondWorkflowTaskCompleted", "StartWorkflowExecution": // a task may come along
		m.task, m.whole = true, true
	case "GetWorkflowExecutionHistory": // workers replay it; readers see it too, for whom a policy may redact
		m.whole = true
	case "QueryWorkflow", "UpdateWorkflowExecution", "PollWorkflowExecutionUpdate", "ExecuteMultiOperation", "PollActivityExecution", "PollNexusOperationExecution":
		m.result = true // each may be asked again
	}
	p.methods[m.full] = m
}

// anyNode gives the plan for a message of this name within an Any at this
// path; nil if the name is not known.
func (p *plan) anyNode(f *field, name []byte, response bool, method string) *node {
	key := anyKey{method: method, path: f.path, name: string(name), response: response}
	if n, ok := p.anys.Load(key); ok {
		return n.(*node)
	}
	d, err := p.files.FindDescriptorByName(protoreflect.FullName(key.name))
	if err != nil {
		return nil
	}
	md, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		return nil
	}
	c := compiler{plan: p, method: method, response: response}
	n, _ := p.anys.LoadOrStore(key, c.message(md, f.path, ""))
	return n.(*node)
}

// compiler turns the descriptors of one message, in one direction, into nodes.
type compiler struct {
	plan     *plan
	method   string
	response bool
	open     []*node // from the root to here: a type that comes again leads back
}

// message compiles a message type at a path. A payload site in a list of
// payloads gets its kind from the field that holds the list.
func (c *compiler) message(d protoreflect.MessageDescriptor, path, kind string) *node {
	for _, n := range c.open {
		if n.name == d.FullName() {
			return n
		}
	}
	n := &node{name: d.FullName(), desc: d, sites: c.reaches(d), failure: d.FullName() == msgFailure,
		task: d.FullName() == msgWorkflowTask || d.FullName() == msgActivityTask}
	c.open = append(c.open, n)
	defer func() { c.open = c.open[:len(c.open)-1] }()

	fields := d.Fields()
	highest := protowire.Number(0)
	for i := range fields.Len() {
		if num := fields.Get(i).Number(); num < maxDense {
			highest = max(highest, num)
		}
	}
	n.fields = make([]field, highest+1)
	bits := make(map[string]uint8)
	facts := false
	for i := range fields.Len() {
		fd := fields.Get(i)
		f := c.field(n, fd, path, kind)
		if f.op != opSkip && f.op != opSkipMessage && !fd.IsList() && !fd.IsMap() {
			f.once = c.bit(bits, fd)
		}
		if fd.Number() < maxDense {
			n.fields[fd.Number()] = f
		} else {
			if n.high == nil {
				n.high = make(map[protowire.Number]*field)
			}
			n.high[fd.Number()] = &f
		}
		facts = facts || f.op == opFact || f.op == opFactName || f.op == opNamespace
	}
	n.scope = facts && n.sites || takesSystem(n)
	return n
}

func takesSystem(n *node) bool {
	for i := range n.fields {
		if n.fields[i].system {
			return true
		}
	}
	return false
}

// bit numbers the fields that count once. The members of a oneof share one:
// the second of them takes the place of the first.
func (c *compiler) bit(bits map[string]uint8, fd protoreflect.FieldDescriptor) uint8 {
	key := string(fd.Name())
	if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
		key = "oneof " + string(o.Name())
	}
	if b, ok := bits[key]; ok {
		return b
	}
	b := uint8(len(bits) + 1)
	if b > 64 {
		panic(fmt.Sprintf("plan: %s has more than 64 singular fields that lead to payloads", fd.ContainingMessage().FullName()))
	}
	bits[key] = b
	return b
}

func (c *compiler) field(n *node, fd protoreflect.FieldDescriptor, path, kind string) field {
	f := field{wire: wireType(fd), packable: fd.IsList() && fd.Kind() != protoreflect.StringKind && wireType(fd) != protowire.BytesType}
	f.path = join(path, fd)
	if fd.IsMap() {
		return c.mapField(fd, f, kind)
	}
	if fd.Message() == nil {
		return c.scalar(n, fd, f)
	}
	return c.messageField(n, fd, f, path, kind)
}

func (c *compiler) messageField(n *node, fd protoreflect.FieldDescriptor, f field, path, kind string) field {
	f.op = opMessage
	switch fd.Message().FullName() {
	case msgPayload:
		if n.name == msgPayloads {
			f.path = path // the list's own name says enough
		} else {
			kind, _ = kindOf(fd)
		}
		f.kind = kind
		f.op = c.payloadOp(n, fd)
		f.na = c.notApplicable(f.path, kind)
		f.system = takesSystemInput(fd)
		f.summary = siteName(fd) == "UserMetadata.summary" && limitedSummaries[c.method]
		return f
	case msgPayloads:
		kind, _ = kindOf(fd)
		f.child = c.message(fd.Message(), f.path, kind)
	case msgFailure:
		f.op = opFailure
		f.kind = policy.KindFailure
		f.child = c.message(fd.Message(), f.path, policy.KindFailure)
		f.na = c.notApplicable(f.path, policy.KindFailure)
	case msgNexusFailure:
		f.op = opSkipMessage
		if !c.response {
			f.op, f.kind = opNexusFailure, policy.KindFailure
			f.na = c.notApplicable(f.path, f.kind)
		}
	case msgAny:
		f.op = opAny
	case msgDataBlob:
		d, err := c.plan.files.FindDescriptorByName(msgHistory)
		if err != nil {
			panic(err) // the api module always has it
		}
		f.op = opHistoryBlob
		f.child = c.message(d.(protoreflect.MessageDescriptor), f.path, "")
	default:
		if fact := factOf(fd); fact != 0 {
			f.op, f.fact = opFactName, fact
			return f
		}
		if !c.reaches(fd.Message()) {
			f.op = opSkipMessage
			return f
		}
		f.child = c.message(fd.Message(), f.path, kind)
	}
	return f
}

func (c *compiler) payloadOp(n *node, fd protoreflect.FieldDescriptor) op {
	site := siteName(fd)
	if n.name == msgFailure && fd.Name() == "encoded_attributes" {
		return opFailAttributes
	}
	if _, exempt := exemptions[site]; !exempt {
		return opPayload
	}
	switch {
	case c.response:
		return opSkip
	case site == "SearchAttributes.indexed_fields":
		return opAsk
	}
	return opExempt
}

// mapField compiles the entry message of a map. Only maps to messages can
// lead to a payload.
func (c *compiler) mapField(fd protoreflect.FieldDescriptor, f field, kind string) field {
	value := fd.MapValue()
	if value.Message() == nil {
		f.op = opSkip
		return f
	}
	if owner := fd.ContainingMessage().FullName(); owner == msgHeader || owner == msgMemo || owner == msgSearchAttributes {
		f.path = strings.TrimSuffix(f.path, "."+string(fd.Name()))
	}
	entry := &node{name: fd.Message().FullName(), desc: fd.Message(), fields: make([]field, 3)}
	entry.fields[1] = field{op: opSkip, wire: wireType(fd.MapKey()), once: 1}
	v := field{op: opMessage, wire: protowire.BytesType, path: f.path, once: 2}
	switch value.Message().FullName() {
	case msgPayload:
		v.kind, _ = kindOf(fd)
		v.op = c.payloadOp(entry, fd)
		v.na = c.notApplicable(f.path, v.kind)
		entry.memo = strings.HasSuffix(f.path, "upserted_memo")
		entry.sites = v.op != opSkip
	case msgPayloads:
		kind, _ = kindOf(fd)
		fallthrough
	default:
		if c.reaches(value.Message()) {
			v.child = c.message(value.Message(), f.path, kind)
			entry.sites = true
		}
	}
	entry.fields[2] = v
	f.op, f.child = opMapEntry, entry
	if !entry.sites {
		f.op, f.child = opSkipMessage, nil
	}
	return f
}

// reaches tells whether a message of this type can hold a site, however deep.
func (c *compiler) reaches(d protoreflect.MessageDescriptor) bool {
	return c.reachesUnseen(d, make(map[protoreflect.FullName]bool))
}

func (c *compiler) reachesUnseen(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[d.FullName()] {
		return false // whatever it reaches is found where it was seen first
	}
	seen[d.FullName()] = true
	switch d.FullName() {
	case msgFailure, msgAny, msgDataBlob:
		return true
	case msgNexusFailure:
		return !c.response
	}
	fields := d.Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		value := fd
		if fd.IsMap() {
			value = fd.MapValue()
		}
		switch {
		case value.Message() == nil:
			if !c.response && (textSites[siteName(fd)] || isReason(fd)) {
				return true
			}
		case value.Message().FullName() == msgPayload:
			if _, exempt := exemptions[siteName(fd)]; !exempt || !c.response {
				return true
			}
		case c.reachesUnseen(value.Message(), seen):
			return true
		}
	}
	return false
}

func (c *compiler) scalar(n *node, fd protoreflect.FieldDescriptor, f field) field {
	f.op = opSkip
	if fd.IsList() {
		return f
	}
	site := siteName(fd)
	switch {
	case n.name == msgFailure && fd.Name() == "message":
		f.op = opFailMessage
	case n.name == msgFailure && fd.Name() == "stack_trace":
		f.op = opFailStack
	case textSites[site] && !c.response:
		f.op = opText
		f.kind, _ = kindOf(fd)
		f.na = c.notApplicable(f.path, f.kind)
	case isReason(fd) && !c.response:
		f.op = opReason
		f.kind = policy.KindReason
		f.na = c.notApplicable(f.path, f.kind)
	case fd.Name() == "endpoint" && fd.Kind() == protoreflect.StringKind:
		f.op = opEndpoint
	case fd.Name() == "task_token" && fd.Kind() == protoreflect.BytesKind:
		f.op = opToken
	case fd.Name() == "namespace" && fd.Kind() == protoreflect.StringKind:
		f.op = opNamespace
	case fd.Kind() == protoreflect.StringKind:
		if fact := factOf(fd); fact != 0 {
			f.op, f.fact = opFact, fact
		}
	}
	return f
}

func join(path string, fd protoreflect.FieldDescriptor) string {
	if path == "" {
		return string(fd.Name())
	}
	return path + "." + string(fd.Name())
}

func wireType(fd protoreflect.FieldDescriptor) protowire.Type {
	switch fd.Kind() {
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind,
		protoreflect.Uint32Kind, protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Uint64Kind:
		return protowire.VarintType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.BytesType
}
