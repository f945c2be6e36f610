package rewrite

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// regularForm decodes a message and encodes it anew, so that a field that
// counts once comes once: what a decoder would merge is merged, and of a
// oneof the last member is left. Unknown fields are kept.
func regularForm(d protoreflect.MessageDescriptor, in []byte) ([]byte, error) {
	m := dynamicpb.NewMessage(d)
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(in, m); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}
