package rewrite

import (
	"bytes"
	"math"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// TestFieldsInARow: fields that need no look end, and are refused, where protobuf-go says so, however they are written.
func TestFieldsInARow(t *testing.T) {
	n := newRewriter(t, sealAll).Method(service + "GetWorkflowExecutionHistory").response.field(1).child.field(1).child
	if n.name != (&historypb.HistoryEvent{}).ProtoReflect().Descriptor().FullName() {
		t.Fatalf("the node is that of %s", n.name)
	}
	event := bytesOf(t, &historypb.HistoryEvent{EventId: 1, EventTime: timestamppb.Now(), Version: 1, TaskId: 1 << 20,
		EventType: enumspb.EVENT_TYPE_TIMER_STARTED})
	long := protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), math.MaxUint64)
	for name, tail := range map[string][]byte{
		"nothing":                      nil,
		"a varint of ten bytes":        long,
		"a varint of eleven bytes":     append(bytes.Clone(long[:10]), 0x80, 1),
		"a varint cut off":             long[:3],
		"a tag alone":                  {0x20},
		"a length past the end":        {0x12, 0x7f, 1},
		"a length of two bytes":        append([]byte{0x12, 0x80, 0x01}, bytes.Repeat([]byte{0x7a, 0}, 64)...),
		"a length cut off":             {0x12, 0x80},
		"a field of another wire type": {0x21, 1, 2, 3, 4, 5, 6, 7, 8},
		"number 0":                     {0x02, 0},
		"an end of a group":            {0x24},
		"a tag of two bytes":           {0x80, 0x7f, 1},
	} {
		in := append(bytes.Clone(event), tail...)
		var one, other wire.Reader
		one.Start(in, 0, len(in), 0)
		other.Start(in, 0, len(in), 0)
		one.Next()
		n.skip(&one, in, len(in))
		_, at := one.Bounds()
		starts := false
		for other.Next() {
			starts = starts || other.At() == at
		}
		if _, end := other.Bounds(); !starts && end != at {
			t.Errorf("%s: the fields in a row end at %d, where none begins", name, at)
		}
		if at < len(event) {
			t.Errorf("%s: only %d bytes are passed over", name, at)
		}
		for one.Next() {
		}
		if accepted := proto.Unmarshal(in, new(historypb.HistoryEvent)) == nil; accepted != (one.Err() == nil) {
			t.Errorf("%s: protobuf-go accepts it: %v; this: %v", name, accepted, one.Err())
		}
		if one.Err() != other.Err() {
			t.Errorf("%s: %v, and field by field %v", name, one.Err(), other.Err())
		}
	}
}
