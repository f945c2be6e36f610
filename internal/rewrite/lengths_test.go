package rewrite

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// TestLengthsShowNoGuess: whoever can put a guess next to a secret learns nothing from the length of what is sealed. The
// lengths of the texts go across every limit at which something else is done with them.
func TestLengthsShowNoGuess(t *testing.T) {
	r := newRewriter(t, sealAll)
	random := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		b := make([]byte, 16)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return hex.EncodeToString(b)
	}
	const pairs = 10_000
	limited, differ := 0, 0
	for i := range pairs {
		secret := word()
		wrong := secret[:len(secret)-1-i%len(secret)] // right up to a place, as an attacker guesses letter by letter
		wrong += word()[:len(secret)-len(wrong)]
		filler := strings.Repeat(word(), 130)[:random.IntN(4100)]
		noise := ""
		for len(noise) < random.IntN(4000) {
			noise += word()
		}
		size := func(guess string) int {
			f := &failurepb.Failure{Message: "token=" + secret + filler, StackTrace: noise + "token=" + guess, Cause: &failurepb.Failure{Message: guess}}
			var m proto.Message = &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace, Failure: f}
			method := "RespondActivityTaskFailed"
			if i%4 == 0 {
				method = "RespondWorkflowTaskCompleted"
				m = &workflowpb.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace, Commands: []*commandpb.Command{{
					CommandType: enumspb.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_FailWorkflowExecutionCommandAttributes{
						FailWorkflowExecutionCommandAttributes: &commandpb.FailWorkflowExecutionCommandAttributes{Failure: f}}}}}
			}
			out, err := request(t, r, method, bytesOf(t, m))
			if err != nil {
				t.Fatal(err)
			}
			if method == "RespondActivityTaskFailed" {
				got := new(workflowpb.RespondActivityTaskFailedRequest)
				if err := proto.Unmarshal(out, got); err != nil {
					t.Fatal(err)
				}
				if n := proto.Size(got.Failure); n > maxAttemptFailure {
					t.Fatalf("a sealed failure of %d bytes, of which the server drops the texts", n)
				} else if n > maxAttemptFailure-64 {
					limited++
				}
			}
			return len(out)
		}
		if a, b := size(secret), size(wrong); a != b {
			if differ++; differ < 10 {
				t.Errorf("pair %d: the right guess takes %d bytes, a wrong one %d", i, a, b)
			}
		}
	}
	if limited < pairs/10 {
		t.Errorf("only %d failures were at the limit", limited)
	}
	fmt.Printf("guesses: %d pairs tried, %d told apart by length\n", pairs, differ)
}
