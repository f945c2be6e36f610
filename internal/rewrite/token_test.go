package rewrite

import (
	"bytes"
	"testing"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const factRules = `package temporal

response contains {"action": "open"}

request contains {"action": "pass"}

request contains {"action": "seal"} if input.activity.type == "Secret"
`

// serverToken is a token of the server for an activity.
func serverToken(activity string) []byte {
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "0c4f3a52-7d6e-4a53-9b53-1d5a3c8c6f2e")
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), "w")
	b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), 5)
	return protowire.AppendString(protowire.AppendTag(b, 8, protowire.BytesType), activity)
}

// handedOut is the token that a worker gets.
func handedOut(t *testing.T, r *Rewriter, token []byte) []byte {
	t.Helper()
	if _, _, err := r.state.Load().Keys.Sealer(t.Context(), testNamespace, "default"); err != nil {
		t.Fatal(err)
	}
	call := r.call(r.Method(service + "PollActivityTaskQueue"))
	defer call.Done()
	out, err := call.Response(t.Context(), bytesOf(t, &workflowpb.PollActivityTaskQueueResponse{TaskToken: token, ActivityId: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	task := new(workflowpb.PollActivityTaskQueueResponse)
	if err := proto.Unmarshal(out, task); err != nil {
		t.Fatal(err)
	}
	return task.TaskToken
}

// TestTokensWithMACs: a worker's token has a MAC where the policy reads facts, and the server gets its own token back. What a
// token says counts by its MAC.
func TestTokensWithMACs(t *testing.T) {
	r := newRewriter(t, factRules)
	token := serverToken("Open")
	given := handedOut(t, r, token)
	if back, mac := splitToken(given); !bytes.Equal(back, token) || mac == nil || !bytes.Equal(WithoutMAC(given), token) {
		t.Fatalf("the worker got %q", given)
	}
	if again := handedOut(t, r, given); len(again) != len(given) {
		t.Error("a token has two MACs")
	}
	r.tasks = newTaskMemory() // as after a restart
	_, mac := splitToken(given)
	changed := append(serverToken("Other"), given[len(token):]...)
	for _, c := range []struct {
		what  string
		token []byte
		clear bool
	}{
		{"a token with its MAC", given, true}, {"the server's token", token, false}, {"a changed token", changed, false},
		{"a token with a part of its MAC", given[:len(given)-3], false}, {"no token", nil, false}, {"a MAC alone", mac, false},
	} {
		in := bytesOf(t, &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace, TaskToken: c.token, Result: secret(canaryMark)})
		call := r.call(r.Method(service + "RespondActivityTaskCompleted"))
		if err := call.Identify(in); err != nil {
			t.Fatal(err)
		}
		out, err := call.Request(t.Context(), in)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		sent := new(workflowpb.RespondActivityTaskCompletedRequest)
		if err := proto.Unmarshal(out, sent); err != nil {
			t.Fatal(err)
		}
		if clear := bytes.Contains(out, []byte(canaryMark)); clear != c.clear || !bytes.Equal(sent.TaskToken, WithoutMAC(c.token)) {
			t.Errorf("%s: in clear %v, the server gets %q", c.what, clear, sent.TaskToken)
		}
		call.Done()
	}
}

// TestTokensWithoutMACs: what is no message, or meets no rule that reads facts, gets no MAC.
func TestTokensWithoutMACs(t *testing.T) {
	for rules, token := range map[string][]byte{factRules: []byte("opaque"), sealAll: serverToken("Open")} {
		if given := handedOut(t, newRewriter(t, rules), token); !bytes.Equal(given, token) {
			t.Errorf("the token %q is handed out as %q", token, given)
		}
	}
	for _, odd := range [][]byte{nil, {0}, {0, 0}, {0, 1}, {255, 255}, bytes.Repeat([]byte{0}, 50)} {
		if token, mac := splitToken(odd); mac != nil || !bytes.Equal(token, odd) {
			t.Errorf("%q has the MAC %q", odd, mac)
		}
	}
}

// TestTheMACIsTakenOffEveryToken goes through the requests with a task token: each has it at its top, in a method whose
// requests are rewritten.
func TestTheMACIsTakenOffEveryToken(t *testing.T) {
	p := newRewriter(t, sealAll).plan.Load()
	found := 0
	for _, m := range p.methods {
		fd := m.request.desc.Fields().ByName("task_token")
		if fd == nil {
			continue
		}
		found++
		if f := m.request.field(fd.Number()); f == nil || f.op != opToken || !m.RequestTouched() {
			t.Errorf("%s: the MAC of its token is not taken off", m.name)
		}
	}
	if found < 9 {
		t.Errorf("%d requests have a task token", found)
	}
}
