package tasks

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestTokens: what is read of the server's task tokens.
func TestTokens(t *testing.T) {
	token := protowire.AppendTag(nil, 2, protowire.BytesType)
	token = protowire.AppendString(token, "workflow")
	if e := executionOf(token); e != nil {
		t.Errorf("a token without a run names %v", e)
	}
	token = protowire.AppendTag(token, 3, protowire.BytesType)
	token = protowire.AppendString(token, "run")
	token = protowire.AppendTag(token, 5, protowire.VarintType)
	token = protowire.AppendVarint(token, 3)
	for want, in := range map[uint64][]byte{3: token, 1: []byte("\xff\xff")} {
		if got := attemptOf(in); got != want {
			t.Errorf("%x: got %d, want %d", in, got, want)
		}
	}
	if e := executionOf(token); e.GetWorkflowId() != "workflow" || e.GetRunId() != "run" {
		t.Errorf("the token names %v", e)
	}
	if e := executionOf([]byte("\x12\x01\xff\x1a\x01\xff")); e != nil {
		t.Errorf("a token with broken text names %v", e)
	}
	if attemptOf(nil) != 1 {
		t.Error("an unreadable token counts as the first attempt")
	}
}
