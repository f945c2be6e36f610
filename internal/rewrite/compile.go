package rewrite

import (
	"cmp"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// compiler turns the descriptors of one message, in one direction, into nodes.
type compiler struct {
	plan     *plan
	method   string
	response bool
	open     []*node // from the root to here; a recursive type leads back to its node
	err      error   // the first failure
}

// compile compiles a message type at a path of a request or response. kind is that of the payloads, if the
// type is a list of payloads.
func (p *plan) compile(method string, response bool, d protoreflect.MessageDescriptor, path, kind string) (*node, error) {
	c := compiler{plan: p, method: method, response: response}
	n := c.message(d, path, kind)
	return n, c.err
}

// message compiles a message type at a path. The payloads of a list get their kind
// from the field that holds the list.
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
	facts, system := false, false
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
		system = system || f.system
	}
	n.scope = facts && n.sites || system
	return n
}

// bit numbers the fields that count once. The members of a oneof share a number, since the last of them
// replaces the others.
func (c *compiler) bit(bits map[string]uint8, fd protoreflect.FieldDescriptor) uint8 {
	key := string(fd.Name())
	if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
		key = "oneof " + string(o.Name())
	}
	if b, ok := bits[key]; ok {
		return b
	}
	b := uint8(len(bits) + 1)
	if b > 64 && c.err == nil {
		c.err = fmt.Errorf("plan: %s has more than 64 singular fields that lead to payloads", fd.ContainingMessage().FullName())
	}
	bits[key] = b
	return b
}

// field compiles one field. kind is that of the payloads of a list.
func (c *compiler) field(n *node, fd protoreflect.FieldDescriptor, path, kind string) field {
	f := field{op: opMessage, wire: wireType(fd), path: join(path, fd)}
	f.packable = fd.IsList() && f.wire != protowire.BytesType
	switch {
	case fd.IsMap():
		c.mapField(&f, fd)
	case fd.Message() == nil:
		c.scalar(&f, n, fd)
	case fd.Message().FullName() == msgPayload:
		if n.name == msgPayloads {
			f.path = path // the path of the list is enough
		} else {
			kind = kindOf(fd)
		}
		c.site(&f, c.payloadOp(n, fd), kind)
		f.system = takesSystemInput(fd)
		f.summary = siteName(fd) == "UserMetadata.summary" && limitedSummaries[c.method]
	default:
		c.messageField(&f, fd)
	}
	return f
}

// site makes a field one to decide about.
func (c *compiler) site(f *field, op op, kind string) {
	f.op, f.kind, f.na = op, kind, c.notApplicable(f.path, kind)
}

// messageField compiles a field with a message other than a Payload.
func (c *compiler) messageField(f *field, fd protoreflect.FieldDescriptor) {
	switch fd.Message().FullName() {
	case msgPayloads:
		f.child = c.message(fd.Message(), f.path, kindOf(fd))
	case msgFailure:
		c.site(f, opFailure, policy.KindFailure)
		f.child = c.message(fd.Message(), f.path, policy.KindFailure)
	case msgNexusFailure:
		f.op = opSkipMessage
		if !c.response {
			c.site(f, opNexusFailure, policy.KindFailure)
		}
	case msgAny:
		f.op = opAny
	case msgDataBlob:
		history, err := c.plan.messageType(msgHistory)
		if err != nil {
			c.err = cmp.Or(c.err, err)
			return
		}
		f.op = opHistoryBlob
		f.child = c.message(history, f.path, "")
	default:
		if fact := factOf(fd); fact != 0 {
			f.op, f.fact = opFactName, fact
		} else if c.reaches(fd.Message()) {
			f.child = c.message(fd.Message(), f.path, "")
		} else {
			f.op = opSkipMessage
		}
	}
}

// payloadOp returns what to do with a field that holds a Payload.
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
		return opSearchAttribute
	}
	return opExempt
}

// mapField compiles the entry message of a map. Only maps to messages can
// lead to a payload.
func (c *compiler) mapField(f *field, fd protoreflect.FieldDescriptor) {
	value := fd.MapValue()
	if value.Message() == nil {
		f.op = opSkip
		return
	}
	switch fd.ContainingMessage().FullName() {
	case msgHeader, msgMemo, msgSearchAttributes:
		f.path = strings.TrimSuffix(f.path, "."+string(fd.Name()))
	}
	entry := &node{name: fd.Message().FullName(), desc: fd.Message(), fields: make([]field, 3)}
	entry.fields[1] = field{op: opSkip, wire: wireType(fd.MapKey()), once: 1}
	v := &entry.fields[2]
	*v = field{op: opMessage, wire: protowire.BytesType, path: f.path, once: 2}
	if value.Message().FullName() == msgPayload {
		c.site(v, c.payloadOp(entry, fd), kindOf(fd))
		entry.memo = strings.HasSuffix(f.path, "upserted_memo")
		entry.sites = v.op != opSkip
	} else if c.reaches(value.Message()) {
		v.child = c.message(value.Message(), f.path, kindOf(fd))
		entry.sites = true
	}
	if entry.sites {
		f.op, f.child = opMapEntry, entry
	} else {
		f.op = opSkipMessage
	}
}

// reaches reports whether a message of this type can hold a site, at any depth.
func (c *compiler) reaches(d protoreflect.MessageDescriptor) bool {
	return c.reachesUnseen(d, make(map[protoreflect.FullName]bool))
}

// reachesUnseen is reaches without the types that were visited before.
func (c *compiler) reachesUnseen(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[d.FullName()] {
		return false // its sites are found at the first visit
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

// scalar compiles a field that holds no message.
func (c *compiler) scalar(f *field, n *node, fd protoreflect.FieldDescriptor) {
	f.op = opSkip
	if fd.IsList() {
		return
	}
	text := fd.Kind() == protoreflect.StringKind
	switch {
	case n.name == msgFailure && fd.Name() == "message":
		f.op = opFailMessage
	case n.name == msgFailure && fd.Name() == "stack_trace":
		f.op = opFailStack
	case textSites[siteName(fd)] && !c.response:
		c.site(f, opText, kindOf(fd))
	case isReason(fd) && !c.response:
		c.site(f, opReason, policy.KindReason)
	case fd.Name() == "task_token" && fd.Kind() == protoreflect.BytesKind:
		f.op = opToken
	case fd.Name() == "endpoint" && text:
		f.op = opEndpoint
	case fd.Name() == "namespace" && text:
		f.op = opNamespace
	case text && factOf(fd) != 0:
		f.op, f.fact = opFact, factOf(fd)
	}
}

// join appends the name of a field to a path.
func join(path string, fd protoreflect.FieldDescriptor) string {
	if path == "" {
		return string(fd.Name())
	}
	return path + "." + string(fd.Name())
}

// wireType returns the wire type of a field, or of each element of a repeated field.
func wireType(fd protoreflect.FieldDescriptor) protowire.Type {
	switch fd.Kind() {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

// takesSystemInput reports whether a field is the input of a Nexus operation, whose message also names the
// endpoint.
func takesSystemInput(fd protoreflect.FieldDescriptor) bool {
	switch siteName(fd) {
	case "ScheduleNexusOperationCommandAttributes.input", "NexusOperationScheduledEventAttributes.input":
		return true
	}
	return false
}

// factOf returns the fact that a field holds: as a string, or as a message whose first field is the name. 0
// means none.
func factOf(fd protoreflect.FieldDescriptor) policy.FactSet {
	if fd.IsList() || fd.IsMap() {
		return 0
	}
	if fd.Message() == nil {
		switch fd.Name() {
		case "workflow_id":
			return policy.FactWorkflowID
		case "activity_id":
			return policy.FactActivityID
		}
		return 0
	}
	switch fd.Message().Name() {
	case "WorkflowExecution":
		if fd.Name() == "workflow_execution" || fd.Name() == "execution" {
			return policy.FactWorkflowID
		}
	case "WorkflowType":
		if fd.Name() == "workflow_type" || fd.Name() == "type" {
			return policy.FactWorkflowType
		}
	case "ActivityType":
		if fd.Name() == "activity_type" {
			return policy.FactActivityType
		}
	case "TaskQueue":
		if fd.Name() == "task_queue" || fd.Name() == "workflow_execution_task_queue" {
			return policy.FactTaskQueue
		}
	}
	return 0
}

// notApplicable returns the facts that a payload at this path cannot have. Facts in neither set are
// unknown: the message does not contain them.
func (c *compiler) notApplicable(path, kind string) policy.FactSet {
	const workflow = policy.FactWorkflowID | policy.FactWorkflowType | policy.FactTaskQueue
	const activity = policy.FactActivityID | policy.FactActivityType
	var na policy.FactSet
	switch {
	case strings.Contains(c.method, "ActivityTask"), strings.Contains(c.method, "ActivityExecution"),
		strings.Contains(path, "schedule_activity_task"), strings.Contains(path, "activity_tasks"):
	case kind == policy.KindMarker: // the result of a local activity is in a marker without its type
	default:
		na |= activity
	}
	switch {
	case strings.Contains(c.method, "ActivityExecution"), strings.Contains(c.method, "NexusOperationExecution"):
		na |= policy.FactWorkflowID | policy.FactWorkflowType
	case strings.Contains(c.method, "Nexus"), strings.Contains(c.method, "Deployment"):
		na |= workflow
	case strings.Contains(c.method, "Schedule") && !strings.Contains(path, "start_workflow"):
		na |= workflow
	}
	return na
}
