package rewrite

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unsafe"

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
	work     *int    // done so far, see maxWork
	err      error   // the first failure
	size     int     // bytes that the nodes take
}

const (
	// maxWork bounds what compiling a plan takes, or one message type later, in bytes of nodes and paths and in fields that are
	// looked at. The plan of this release takes a tenth of it.
	maxWork   = 32 << 20
	fieldWork = 128 // bytes of a field's entry
)

// did counts work, and reports false once it is too much.
func (c *compiler) did(n int) bool {
	if c.work == nil { // one type alone is compiled
		c.work = new(int)
	}
	*c.work += n
	if *c.work > maxWork && c.err == nil {
		c.err = errors.New("plan: the types of the messages hold too much")
	}
	return c.err == nil
}

// compile compiles a message type at a path of a request or response. kind is that of the payloads, if the
// type is a list of payloads.
func (p *plan) compile(method string, response bool, d protoreflect.MessageDescriptor, path, kind string) (*node, error) {
	c := compiler{plan: p, method: method, response: response, work: p.work}
	n := c.message(d, path, kind)
	return n, c.err
}

const (
	nodeSize  = 2 * int(unsafe.Sizeof(node{}))
	fieldSize = int(unsafe.Sizeof(field{}))
)

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

	n.tasks = n.task
	fields := d.Fields()
	highest := protowire.Number(0)
	for i := range fields.Len() {
		if num := fields.Get(i).Number(); num < maxDense {
			highest = max(highest, num)
		}
	}
	if !c.did((int(highest) + 1) * fieldWork) {
		return n
	}
	n.fields = make([]field, highest+1)
	c.size += nodeSize + len(n.fields)*fieldSize
	bits := make(map[string]uint8)
	facts, system := false, false
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !c.did(len(path) + len(fd.Name())) {
			return n
		}
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
			c.size += 2 * fieldSize
		}
		n.tasks = n.tasks || f.child != nil && f.child.tasks
		facts = facts || f.op == opFact || f.op == opFactName || f.op == opNamespace
		system = system || f.system
	}
	n.scope, n.system = facts && n.sites || system, system
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
	f := field{op: c.opOf(fd), wire: wireType(fd), path: join(path, fd), fact: factOf(fd)}
	c.size += len(f.path)
	f.packable = fd.IsList() && f.wire != protowire.BytesType
	if n.name != msgPayloads {
		kind = kindOf(fd)
	}
	d := messageOf(fd)
	switch f.op {
	case opPayload:
		f.system = systemInputs[siteName(fd)]
		f.summary = siteName(fd) == "UserMetadata.summary" && limitedSummaries[c.method]
	case opFailure:
		kind = policy.KindFailure
		f.child = c.message(d, f.path, kind)
	case opNexusFailure:
		kind = policy.KindFailure
	case opReadable:
		kind = readableKind(fd)
	case opHistoryBlob:
		history, err := c.plan.messageType(msgHistory)
		if err != nil {
			c.err = cmp.Or(c.err, err)
			return f
		}
		f.child = c.message(history, f.path, "")
	case opMessage:
		if !c.reaches(d) {
			f.op = opSkipMessage
			break
		}
		f.child = c.message(d, f.path, kind)
	}
	if f.op.isSite() {
		f.kind, f.na = kind, notApplicable(c.method, f.path, kind)
	}
	if !c.response && (f.op == opSkipMessage || f.op == opFactName) {
		f.known = c.knownOf(fd.Message())
	}
	if fd.IsMap() && (d != nil || f.op == opReadable) {
		return c.entry(fd, f)
	}
	return f
}

// entry compiles the entry message of a map to messages or texts, whose plan is value.
func (c *compiler) entry(fd protoreflect.FieldDescriptor, value field) field {
	if value.op == opSkip || value.op == opSkipMessage {
		return field{op: opSkipMessage, wire: value.wire, path: value.path, known: value.known}
	}
	value.once = 2
	entry := &node{name: fd.Message().FullName(), desc: fd.Message(), sites: true, tasks: value.child != nil && value.child.tasks,
		memo: strings.HasSuffix(value.path, "upserted_memo")}
	c.size += nodeSize + 3*fieldSize
	entry.fields = []field{1: {op: opSkip, wire: wireType(fd.MapKey()), once: 1}, 2: value}
	return field{op: opMapEntry, wire: value.wire, path: value.path, child: entry}
}

// messageOf returns the type of the message in a field or in the values of a map; nil for scalars.
func messageOf(fd protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	return fd.Message()
}

// opOf returns what to do with a field, or with the values of a map, by its name and type. A message without
// rules of its own may still lead nowhere: see reaches.
func (c *compiler) opOf(fd protoreflect.FieldDescriptor) op {
	d := messageOf(fd)
	if d == nil {
		return c.opOfScalar(fd)
	}
	switch d.FullName() {
	case msgPayload:
		return c.opOfPayload(fd)
	case msgFailure:
		return opFailure
	case msgNexusFailure:
		if c.response {
			return opSkipMessage
		}
		return opNexusFailure
	case msgAny:
		return opAny
	case msgDataBlob:
		return opHistoryBlob
	}
	if factOf(fd) != 0 {
		return opFactName
	}
	return opMessage
}

// opOfPayload is opOf for a field that holds a Payload.
func (c *compiler) opOfPayload(fd protoreflect.FieldDescriptor) op {
	site := siteName(fd)
	_, exempt := exemptions[site]
	switch {
	case site == "Failure.encoded_attributes":
		return opFailAttributes
	case !exempt:
		return opPayload
	case c.response:
		return opSkip
	case site == "SearchAttributes.indexed_fields":
		return opSearchAttribute
	}
	return opExempt
}

// opOfScalar is opOf for a field that holds no message.
func (c *compiler) opOfScalar(fd protoreflect.FieldDescriptor) op {
	site, text := siteName(fd), fd.Kind() == protoreflect.StringKind
	switch {
	case !c.response && readableKind(fd) != "":
		return opReadable
	case fd.IsList(), fd.IsMap():
	case site == "Failure.message":
		return opFailMessage
	case site == "Failure.stack_trace":
		return opFailStack
	case textSites[site] && !c.response:
		return opText
	case fd.Name() == "task_token" && fd.Kind() == protoreflect.BytesKind:
		return opToken
	case fd.Name() == "endpoint" && text:
		return opEndpoint
	case fd.Name() == "namespace" && text:
		return opNamespace
	case factOf(fd) != 0:
		return opFact
	}
	return opSkip
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
	}
	fields := d.Fields()
	if !c.did(100 + fields.Len()) {
		return false
	}
	for i := range fields.Len() {
		op := c.opOf(fields.Get(i))
		if op.isSite() || op == opMessage && c.reachesUnseen(messageOf(fields.Get(i)), seen) {
			return true
		}
	}
	return false
}

// join appends the name of a field to a path. Lists of payloads and maps to payloads have a path of their own
// already.
func join(path string, fd protoreflect.FieldDescriptor) string {
	switch fd.ContainingMessage().FullName() {
	case msgPayloads, msgHeader, msgMemo, msgSearchAttributes:
		return path
	}
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

// factOf returns the fact that a field holds: as a string, or as a message whose first field is the name. 0
// means none.
func factOf(fd protoreflect.FieldDescriptor) policy.FactSet {
	if fd.IsList() || fd.IsMap() {
		return 0
	}
	switch d := fd.Message(); {
	case d != nil:
		return factFields[[2]protoreflect.Name{d.Name(), fd.Name()}]
	case fd.Kind() == protoreflect.StringKind:
		return factFields[[2]protoreflect.Name{"", fd.Name()}]
	}
	return 0
}

// notApplicable returns the facts that a payload at this path cannot have. Facts in neither set are
// unknown: the message does not contain them.
func notApplicable(method, path, kind string) policy.FactSet {
	const workflow = policy.FactWorkflowID | policy.FactWorkflowType | policy.FactTaskQueue
	const activity = policy.FactActivityID | policy.FactActivityType
	var na policy.FactSet
	switch {
	case strings.Contains(method, "ActivityTask"), strings.Contains(method, "ActivityExecution"),
		strings.Contains(path, "schedule_activity_task"), strings.Contains(path, "activity_tasks"):
	case kind == policy.KindMarker: // the result of a local activity is in a marker without its type
	default:
		na |= activity
	}
	switch {
	case strings.Contains(method, "ActivityExecution"), strings.Contains(method, "NexusOperationExecution"):
		na |= policy.FactWorkflowID | policy.FactWorkflowType
	case strings.Contains(method, "Nexus"), strings.Contains(method, "Deployment"):
		na |= workflow
	case strings.Contains(method, "Schedule") && !strings.Contains(path, "start_workflow"):
		na |= workflow
	}
	return na
}
