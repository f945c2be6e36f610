package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// sealer replaces values of a message by sealed ones, as the server would hold them. Which, and how, follows from the
// random numbers and the message alone, so that both sides hold the same.
type sealer struct {
	ctx       context.Context
	side      *side
	namespace string
	r         *rand.Rand // nil: every value, plainly
	err       error
}

// how is what is done to one value.
type how struct {
	leave           bool
	hint, namespace string
	spoil           int // 0: as it was sealed; see spoilSealed
}

func (s *sealer) how() how {
	h := how{hint: "plain", namespace: s.namespace}
	if s.r == nil {
		return h
	}
	h.leave = s.r.IntN(4) == 0
	h.hint = hints[s.r.IntN(len(hints))]
	if s.r.IntN(12) == 0 {
		h.namespace = namespaces[s.r.IntN(len(namespaces))]
	}
	if s.r.IntN(25) == 0 {
		h.spoil = 1 + s.r.IntN(3)
	}
	if !strings.HasPrefix(h.namespace, "clinic-") && h.hint == "phi" {
		h.hint = "plain" // this key is clinic's
	}
	return h
}

// walk visits the fields of a message in the order of their declaration.
func (s *sealer) walk(m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *commonpb.Payload:
		s.payload(v)
		return
	case *failurepb.Failure:
		s.failure(v)
		return
	case *anypb.Any:
		if inner, err := v.UnmarshalNew(); err == nil {
			s.walk(inner.ProtoReflect())
			v.Value = marshal(inner)
		}
		return
	case *commonpb.DataBlob:
		h := new(historypb.History)
		if v.EncodingType == 1 && proto.Unmarshal(v.Data, h) == nil {
			s.walk(h.ProtoReflect())
			v.Data = marshal(h)
		}
		return
	case *commonpb.SearchAttributes:
		return // the server indexes them: they are never sealed
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil || !m.Has(f) {
			continue
		}
		switch {
		case f.IsMap():
			s.entries(m.Get(f).Map(), f)
		case f.IsList():
			for j := range m.Get(f).List().Len() {
				s.walk(m.Get(f).List().Get(j).Message())
			}
		default:
			s.walk(m.Get(f).Message())
		}
	}
}

func (s *sealer) entries(m protoreflect.Map, f protoreflect.FieldDescriptor) {
	if f.MapValue().Message() == nil {
		return
	}
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
	for _, k := range keys {
		s.walk(m.Get(k).Message())
	}
}

func (s *sealer) payload(p *commonpb.Payload) {
	h := s.how()
	if h.leave || s.err != nil {
		return
	}
	sealed, err := s.side.seal(s.ctx, h.namespace, h.hint, []*commonpb.Payload{proto.CloneOf(p)})
	if err != nil || len(sealed) != 1 {
		s.err = fmt.Errorf("seal a payload in %s as %s: %w", h.namespace, h.hint, err)
		return
	}
	p.Metadata, p.ExternalPayloads = sealed[0].Metadata, sealed[0].ExternalPayloads
	p.Data = spoilSealed(sealed[0].Data, h.spoil)
	s.side.remember(p)
}

func (s *sealer) failure(f *failurepb.Failure) {
	h := s.how()
	if h.leave || s.err != nil {
		return
	}
	sealed, err := s.side.sealFailure(s.ctx, h.namespace, h.hint, proto.CloneOf(f))
	if err != nil {
		s.err = fmt.Errorf("seal a failure in %s: %w", h.namespace, err)
		return
	}
	proto.Reset(f)
	proto.Merge(f, sealed)
	if p := f.GetEncodedAttributes(); p != nil {
		p.Data = spoilSealed(p.Data, h.spoil)
		s.side.remember(p)
	}
}

// spoilSealed breaks a sealed value in a way that any format has to notice.
func spoilSealed(b []byte, how int) []byte {
	b = bytes.Clone(b)
	switch {
	case len(b) < 2:
	case how == 1:
		b[len(b)-1] ^= 1
	case how == 2:
		b = b[:len(b)/2]
	case how == 3:
		b = append(b, 0)
	}
	return b
}
