package rewrite

import (
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Found is one payload of a response, as the server holds it.
type Found struct {
	Kind, Path string
	Name       string // key of the map that holds it, such as that of a header; "": it stands in no map
	Payload    []byte // serialized
	// Marked reports whether the payload has our marker. Sealed is then what it holds,
	// unless Err is set.
	Marked bool
	Sealed envelope.Sealed
	Err    error
}

// Visit calls visit for every payload of a response that could be sealed, and opens
// none. What visit gets aliases the response.
func (r *Rewriter) Visit(m *Method, answer []byte, visit func(Found)) error {
	m = m.latest()
	message := Message{walk: walk{plan: m.plan, method: m.name, response: true}}
	if err := message.walk.runRegular(m.response, answer); err != nil {
		return fmt.Errorf("%s: the bytes are not a %s: %w", m.name, m.response.name.Name(), err)
	}
	return message.payloads(func(s *slot, _ int, payload []byte) error {
		v := Found{Kind: s.f.kind, Path: s.f.path, Name: message.name(s), Payload: payload}
		v.Sealed, v.Marked, v.Err = envelope.ParsePayload(payload)
		visit(v)
		return nil
	})
}

// Text is a text of a message that is no payload.
type Text struct {
	// Site is the field, such as "history.v1.ActivityTaskStartedEventAttributes.identity".
	Site string
	// Kind is what policies read in input.payload.kind. "": no policy decides about the text.
	Kind string
	// Name is the key of the map that holds the text. "": none does.
	Name, Value string
}

// Texts calls visit for each text of a message, and in what it holds, that users may have written and that is no payload:
// texts of failures, which are sealed, and what stays readable at the server, such as ids and search attributes.
func Texts(m proto.Message, visit func(Text)) { eachText(m.ProtoReflect(), visit) }

func eachText(m protoreflect.Message, visit func(Text)) {
	switch m.Descriptor().FullName() {
	case msgPayload, msgMemo, msgHeader, msgAny, msgDataBlob:
		return
	case msgSearchAttributes:
		if a, ok := m.Interface().(*commonpb.SearchAttributes); ok {
			for name, p := range a.GetIndexedFields() {
				visit(Text{Site: "common.v1.SearchAttributes.indexed_fields", Kind: policy.KindSearchAttribute, Name: name, Value: string(p.GetData())})
			}
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				textOf(fd, fd.MapValue(), k.String(), v, visit)
				return true
			})
		case fd.IsList():
			for i := range v.List().Len() {
				textOf(fd, fd, "", v.List().Get(i), visit)
			}
		default:
			textOf(fd, fd, "", v, visit)
		}
		return true
	})
}

// textOf visits one value of a field. of is the field, or of a map its value.
func textOf(fd, of protoreflect.FieldDescriptor, name string, v protoreflect.Value, visit func(Text)) {
	switch of.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		eachText(v.Message(), visit)
	case protoreflect.StringKind:
		kind := ""
		switch classOf(fd) {
		case classPayload:
			kind = policy.KindFailure
		case classReason:
			kind = policy.KindReason
		case classText, classCredential:
			kind = policy.KindText
		case className, classExempt:
		default:
			return
		}
		site := strings.TrimPrefix(string(fd.FullName()), apiPackage)
		visit(Text{Site: site, Kind: kind, Name: name, Value: v.String()})
	}
}
