package tasks

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestAttemptOf(t *testing.T) {
	token := protowire.AppendTag(nil, 2, protowire.BytesType)
	token = protowire.AppendString(token, "workflow")
	token = protowire.AppendTag(token, 5, protowire.VarintType)
	token = protowire.AppendVarint(token, 3)
	for want, in := range map[uint64][]byte{3: token, 1: []byte("\xff\xff")} {
		if got := attemptOf(in); got != want {
			t.Errorf("%x: got %d, want %d", in, got, want)
		}
	}
	if attemptOf(nil) != 1 {
		t.Error("an unreadable token counts as the first attempt")
	}
}
