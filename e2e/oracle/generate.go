package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// namespaces that generated messages name, the likeliest first.
var namespaces = []string{"clinic-prod", "clinic-test", "lab", "elsewhere"}

// generator makes messages of any type from a sequence of random numbers.
type generator struct {
	r    *rand.Rand
	left int // fields that may still be set, so that no message becomes huge
	// namespace is what fields of this name get in most cases.
	namespace string
	// sealed says that the companion will seal the message's failures.
	sealed bool
}

// message makes a message of a type. deep is how many levels of messages may follow.
func (g *generator) message(d protoreflect.MessageDescriptor, deep int) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(fmt.Sprintf("oracle: no Go type of %s: %v", d.FullName(), err)) // all of go.temporal.io/api's have one
	}
	m := t.New()
	g.fill(m, deep)
	return m.Interface()
}

func (g *generator) fill(m protoreflect.Message, deep int) {
	switch m.Descriptor().FullName() {
	case "temporal.api.common.v1.Payload":
		g.payload(m)
		return
	case "google.protobuf.Any":
		g.any(m, deep)
		return
	case "temporal.api.common.v1.DataBlob":
		g.blob(m, deep)
		return
	}
	fields := m.Descriptor().Fields()
	seen := map[protoreflect.OneofDescriptor]bool{}
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if seen[o] {
				continue
			}
			seen[o] = true
			f = o.Fields().Get(g.r.IntN(o.Fields().Len()))
		}
		if !g.sets(f, deep) {
			continue
		}
		g.left--
		g.set(m, f, deep)
	}
}

// sets reports whether a field is to be set. Namespaces and what can hold a payload are set more often than the rest.
func (g *generator) sets(f protoreflect.FieldDescriptor, deep int) bool {
	if f.Name() == "namespace" || f.Name() == "task_token" {
		return g.r.IntN(20) > 0
	}
	if g.left <= 0 || f.Message() != nil && deep <= 0 {
		return false
	}
	if inner := valueMessage(f); inner != nil && reaches()[inner.FullName()] {
		return g.r.IntN(3) > 0
	}
	return g.r.IntN(4) == 0
}

func (g *generator) set(m protoreflect.Message, f protoreflect.FieldDescriptor, deep int) {
	switch {
	case f.IsMap():
		entries := m.Mutable(f).Map()
		for range g.r.IntN(3) {
			key := g.mapKey(f)
			if f.MapValue().Message() == nil {
				entries.Set(key, g.scalar(f.MapValue()))
				continue
			}
			value := entries.NewValue()
			g.fill(value.Message(), deep-1)
			entries.Set(key, value)
		}
	case f.IsList():
		list := m.Mutable(f).List()
		for range 1 + g.r.IntN(3) {
			if f.Message() == nil {
				list.Append(g.scalar(f))
				continue
			}
			g.fill(list.AppendMutable().Message(), deep-1)
		}
	case f.Message() != nil:
		g.fill(m.Mutable(f).Message(), deep-1)
	default:
		m.Set(f, g.scalar(f))
	}
}

var mapKeys = []string{"diagnosis", "trace-parent", "authorization", "desk", "secret", "note", "badkey",
	"CustomKeywordField", ""}

func (g *generator) mapKey(f protoreflect.FieldDescriptor) protoreflect.MapKey {
	if f.MapKey().Kind() == protoreflect.StringKind {
		return protoreflect.ValueOfString(mapKeys[g.r.IntN(len(mapKeys))]).MapKey()
	}
	return g.scalar(f.MapKey()).MapKey()
}

// markedText looks like a text that a proxy sealed.
const markedText = "sealed.v1:AAAA"

var texts = []string{"", "Admission", "FetchLabResults", "Open", "w-1", "queue", "größe",
	"grpc: received message larger than max (5 vs. 4)",
	markedText, "__temporal_system", "a/b/c", "type.googleapis.com/x", strings.Repeat("long ", 60)}

func (g *generator) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	r := g.r
	switch f.Kind() {
	case protoreflect.StringKind:
		if f.Name() == "namespace" {
			return protoreflect.ValueOfString(g.someNamespace())
		}
		text := texts[r.IntN(len(texts))]
		if g.sealed && text == markedText && f.FullName() == "temporal.api.failure.v1.Failure.source" {
			text = "" // this field stays readable, so the companion refuses a text there that looks sealed
		}
		return protoreflect.ValueOfString(text)
	case protoreflect.BytesKind:
		if f.Name() == "task_token" {
			return protoreflect.ValueOfBytes(g.token())
		}
		if f.Name() == "details" && f.ContainingMessage().FullName() == "temporal.api.nexus.v1.Failure" {
			return protoreflect.ValueOfBytes([]byte(nexusDetails[r.IntN(len(nexusDetails))]))
		}
		return protoreflect.ValueOfBytes(fmt.Append(nil, "bytes ", r.IntN(1000)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(r.IntN(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(1 + r.IntN(9)))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(1 + r.IntN(9)))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(1 + r.IntN(9)))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(1 + r.IntN(9)))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(0.25)
	}
	panic(fmt.Sprintf("oracle: no value for %s of kind %s", f.FullName(), f.Kind()))
}

func (g *generator) someNamespace() string {
	if g.namespace != "" && g.r.IntN(10) > 0 {
		return g.namespace
	}
	return namespaces[g.r.IntN(len(namespaces))]
}

// nexusDetails are what a Nexus failure's details may be: JSON, with a Temporal failure inside or not, or something else.
var nexusDetails = []string{`{"a": 1}`, `"text"`, `null`, `not JSON`,
	`{"message": "inner", "applicationFailureInfo": {"type": "T", "details": {"payloads": [` +
		`{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "IlNFQ1JFVCI="}]}}}`,
	`{"cause": {"message": "deep"}, "stackTrace": "at main"}`}

// token is a task's token as the server makes them, or any bytes. The field numbers are those of the server's
// temporal.server.api.token.v1.Task.
func (g *generator) token() []byte {
	if g.r.IntN(4) == 0 {
		return fmt.Append(nil, "token ", g.r.IntN(50))
	}
	var b []byte
	text := func(number protowire.Number, s string) {
		if s != "" {
			b = protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
		}
	}
	text(1, "00000000-0000-0000-0000-000000000001")
	text(2, texts[g.r.IntN(5)])
	text(3, "run")
	b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), uint64(g.r.IntN(30)))
	b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 1)
	text(6, texts[g.r.IntN(5)])
	text(8, texts[g.r.IntN(5)])
	return b
}

// travelers are the messages that travel as google.protobuf.Any.
var travelers = []protoreflect.FullName{
	"temporal.api.update.v1.Request", "temporal.api.update.v1.Acceptance",
	"temporal.api.update.v1.Response", "temporal.api.update.v1.Rejection",
	"temporal.api.errordetails.v1.QueryFailedFailure", "temporal.api.errordetails.v1.MultiOperationExecutionFailure",
	"temporal.api.errordetails.v1.NotFoundFailure", "temporal.api.failure.v1.Failure", "temporal.api.common.v1.Payload",
}

func (g *generator) any(m protoreflect.Message, deep int) {
	a := m.Interface().(*anypb.Any)
	switch g.r.IntN(8) {
	case 0:
		a.TypeUrl, a.Value = "type.googleapis.com/unknown.v1.Thing", []byte("\x0a\x05hello")
		return
	case 1:
		return
	}
	name := travelers[g.r.IntN(len(travelers))]
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		panic(fmt.Sprintf("oracle: %s: %v", name, err))
	}
	a.TypeUrl = "type.googleapis.com/" + string(name)
	a.Value, _ = proto.MarshalOptions{Deterministic: true}.Marshal(g.message(d.(protoreflect.MessageDescriptor), min(deep, 3)))
}

func (g *generator) blob(m protoreflect.Message, deep int) {
	fields := m.Descriptor().Fields()
	if g.r.IntN(4) == 0 {
		m.Set(fields.ByName("data"), protoreflect.ValueOfBytes([]byte("no history")))
		return
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName("temporal.api.history.v1.History")
	if err != nil {
		panic(fmt.Sprintf("oracle: %v", err))
	}
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(g.message(d.(protoreflect.MessageDescriptor), min(deep, 4)))
	m.Set(fields.ByName("encoding_type"), protoreflect.ValueOfEnum(1))
	m.Set(fields.ByName("data"), protoreflect.ValueOfBytes(b))
}

// reaches are the messages that can hold a payload, an Any, a blob or a failure.
var reaches = sync.OnceValue(func() map[protoreflect.FullName]bool {
	found := map[protoreflect.FullName]bool{"temporal.api.common.v1.Payload": true, "google.protobuf.Any": true,
		"temporal.api.common.v1.DataBlob": true, "temporal.api.failure.v1.Failure": true}
	for before := 0; before != len(found); {
		before = len(found)
		protoregistry.GlobalTypes.RangeMessages(func(t protoreflect.MessageType) bool {
			fields := t.Descriptor().Fields()
			for i := range fields.Len() {
				if inner := valueMessage(fields.Get(i)); inner != nil && found[inner.FullName()] {
					found[t.Descriptor().FullName()] = true
				}
			}
			return true
		})
	}
	return found
})

// valueMessage is the message in a field, or in the values of a map; nil: none.
func valueMessage(f protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if f.IsMap() {
		return f.MapValue().Message()
	}
	return f.Message()
}
