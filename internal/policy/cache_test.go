package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// sensitive is a policy in which every reference of input decides something, some
// of them through helpers, whole objects and dynamic names.
var sensitive = map[string]string{
	"policy.rego": `package temporal

request contains {"action": "pass"}

request contains {"action": "seal", "key": "k-rpc"} if input.rpc == "SignalWorkflowExecution"

request contains {"action": "seal", "key": "k-name"} if is_secret(input.payload.name)

request contains {"action": "seal", "key": "k-path"} if {
	input.payload.kind == "memo"
	endswith(input.payload.path, ".b")
}

request contains {"action": "seal", "key": "k-enc"} if {
	input.payload.encoding == "binary/plain"
	input.payload.type == "T"
}

request contains {"action": "seal", "key": "k-ext"} if {
	input.payload.external
	input.payload.kind != "result"
}

request contains {"action": "accept"} if input.caller.subject == "self"

request contains {"action": "deny", "reason": "content"} if {
	input.payload.kind == "signal"
	input.content.json.deny == true
}

request contains {"action": "seal", "fields": ["/a"]} if {
	input.payload.kind == "update"
	input.content.size > 20
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace

response contains {"action": "open"} if input.sealed.granted

response contains {"action": "redact"} if {
	input.sealed.key == "phi"
	not "doctor" in input.caller.claims.groups
}

response contains {"action": "keep"} if input.caller.listener == "audit"

is_secret(name) if name in {"token", "password"}
`,
	"a.rego": `package temporal.namespaces.a

request contains {"action": "seal", "key": "k-wf"} if input.workflow.type == "Pay"

request contains {"action": "seal", "key": concat("/", ["tenant", tenant])} if {
	some tenant in [split(input.workflow.id, "/")[0]]
	contains(input.workflow.id, "/")
}

request contains {"action": "seal", "key": "k-queue"} if startswith(input.workflow.task_queue, "q")

request contains {"action": "deny", "reason": "caller"} if {
	some member in ["kind"]
	input.caller[member] == "token"
}

response contains {"action": "deny", "reason": "not yours"} if object.get(input.caller.claims, "team", "") == "x"
`,
	"b.rego": `package temporal.namespaces.b

facts := input.activity

request contains {"action": "seal", "key": "k-act"} if facts.type == "Scan"

request contains {"action": "seal", "key": "k-id"} if facts.id == "7"
`,
}

var sensitiveKeys = ranked("tenant/*", "k-ext", "k-rpc", "k-name", "k-path", "k-enc", "k-wf", "k-queue", "k-act", "k-id", "phi", "default")

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

var someCallers = []*Caller{
	nil,
	NewCaller("token", "self", "main", nil),
	NewCaller("mtls", "self", "main", nil),
	NewCaller("mtls", "other", "audit", nil),
	NewCaller("jwt", "ann", "main", map[string]any{"groups": []any{"doctor"}, "team": "y"}),
	NewCaller("jwt", "bob", "main", map[string]any{"groups": []any{"clerk"}, "team": "x", "exp": 1}),
}

func randomInput(r *rand.Rand) (Direction, *Input) {
	in := &Input{
		Namespace:    pick(r, "a", "b", "c", "d"),
		RPC:          pick(r, "StartWorkflowExecution", "SignalWorkflowExecution"),
		Caller:       pick(r, someCallers...),
		WorkflowID:   pick(r, "w1", "acme/1", "zeta/2"),
		WorkflowType: pick(r, "Pay", "Ship"),
		TaskQueue:    pick(r, "q1", "other"),
		ActivityID:   pick(r, "7", "8"),
		ActivityType: pick(r, "Scan", "Mail"),
		Known:        FactSet(r.IntN(int(AllFacts) + 1)),
		Kind:         pick(r, Kinds()...),
		Name:         pick(r, "", "token", "x"),
		Path:         pick(r, "a.b", "a.c"),
		Encoding:     pick(r, "json/plain", "json/plain", "binary/plain", "binary/null"),
		Type:         pick(r, "", "T"),
		External:     r.IntN(4) == 0,
		Data: []byte(pick(r, `{"deny":true}`, `{"deny":false}`, `{}`, `{"a":"0123456789","b":"0123456789"}`,
			`{"deny":`, `{"deny":true,"deny":false}`, ``)),
		Sealed: Sealed{Namespace: pick(r, "a", "b", "c"), Key: pick(r, "phi", "default"), Granted: r.IntN(2) == 0},
	}
	in.NotApplicable = FactSet(r.IntN(int(AllFacts)+1)) &^ in.Known
	if kindClass(in.Kind) == 0 && r.IntN(4) == 0 {
		in.Apart, in.Known, in.NotApplicable, in.Name, in.Path = true, 0, 0, "", ""
	}
	return Direction(r.IntN(2)), in
}

// differences compares decisions of the policy with evaluations by another that
// remembers nothing and always decodes the content, until `enough` differ.
func differences(t *testing.T, remembering, plain *Policy, n, enough int) (different, hits int) {
	t.Helper()
	ctx := context.Background()
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		d, in := randomInput(r)
		got, gotErr := remembering.Decide(ctx, d, in)
		want, _, wantErr := plain.evaluate(ctx, plain.queries(in.Namespace)[d], in, true)
		want.forCaller(in)
		if got.Hit {
			hits++
		}
		got.Hit = false
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || !reflect.DeepEqual(got, want) {
			different++
			if different == 1 && enough > 1 {
				t.Logf("%s %+v: cached %+v %v, evaluation %+v %v", d, in, got, gotErr, want, wantErr)
			}
			if different == enough {
				break
			}
		}
	}
	return different, hits
}

func TestMemoDecidesAsEvaluation(t *testing.T) {
	n := 40_000
	if testing.Short() {
		n = 5_000
	}
	// A small cache, so that entries are pushed out as well.
	small := func(o *Options) { o.CacheSize = 512 }
	p := mustLoad(t, sensitive, sensitiveKeys, small)
	different, hits := differences(t, p, mustLoad(t, sensitive, sensitiveKeys), n, n)
	t.Logf("%d requests, %d answered by the cache", n, hits)
	if different != 0 {
		t.Errorf("%d of %d decisions differ from the evaluation", different, n)
	}
	if hits < n/10 {
		t.Errorf("only %d of %d answers came from the cache: this test saw little of it", hits, n)
	}
}

// TestMemoKeyHasTeeth leaves each reference out of the key in turn: if the test above
// did not notice, it would prove nothing.
func TestMemoKeyHasTeeth(t *testing.T) {
	plain := mustLoad(t, sensitive, sensitiveKeys)
	var all MemberSet
	for _, namespace := range []string{"", "a", "b"} {
		for _, q := range plain.queries(namespace) {
			all |= q.reads.bits
		}
	}
	if missing := readEverything &^ all; missing != 0 {
		t.Fatalf("the policy of this test does not read %v", missing.Names())
	}
	for bit := MemberSet(1); bit < readEverything; bit <<= 1 {
		if bit&readContent != 0 {
			continue // never part of a key
		}
		name := "input." + bit.Names()[0]
		t.Run(name, func(t *testing.T) {
			p := mustLoad(t, sensitive, sensitiveKeys)
			for _, namespace := range []string{"", "a", "b"} {
				for _, q := range p.queries(namespace) {
					q.reads.bits &^= bit
					if bit == readCallerClaims {
						q.reads.claims = nil
					}
				}
			}
			different, _ := differences(t, p, plain, 20_000, 1)
			if bit == readNamespace {
				// Namespaces without a file share a query, whose key holds the
				// namespace in any case.
				if different != 0 {
					t.Errorf("the namespace was left out of the key of a shared query")
				}
				return
			}
			if different == 0 {
				t.Errorf("a key without %s went unnoticed", name)
			}
		})
	}
}

func TestMemoHitAllocatesNothing(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct {
		files     map[string]string
		direction Direction
		namespace string
	}{
		"claims, sealed":        {sensitive, Response, "a"},
		"facts through helpers": {map[string]string{"b.rego": sensitive["b.rego"]}, Request, "b"},
		"no rules of its own":   {map[string]string{"policy.rego": floor}, Request, "c"},
	} {
		p := mustLoad(t, tt.files, sensitiveKeys)
		in := &Input{Namespace: tt.namespace, RPC: "StartWorkflowExecution", Caller: someCallers[4], WorkflowID: "acme/1", WorkflowType: "Ship",
			TaskQueue: "x", Known: AllFacts, Kind: KindInput, Encoding: "json/plain", Sealed: Sealed{Namespace: tt.namespace, Key: "phi"}}
		decide(t, p, tt.direction, in)
		var v Verdict
		allocs := testing.AllocsPerRun(1000, func() { v, _ = p.Decide(ctx, tt.direction, in) })
		if !v.Hit || allocs != 0 {
			t.Errorf("%s: hit %v, %v allocations", name, v.Hit, allocs)
		}
	}
}

func TestMemoIsBounded(t *testing.T) {
	p := mustLoad(t, sensitive, sensitiveKeys, func(o *Options) { o.CacheSize = 64 })
	for i := range 2_000 {
		in := &Input{Namespace: "a", WorkflowID: fmt.Sprint("w", i), Known: AllFacts, Kind: KindInput, Encoding: "json/plain"}
		decide(t, p, Response, in)
	}
	if len(p.cache.slot) != 64 {
		t.Errorf("the cache has %d places, not 64", len(p.cache.slot))
	}
	long := &Input{Namespace: "x", Sealed: Sealed{Namespace: string(make([]byte, maxCacheKey))}, Kind: KindInput}
	for range 2 {
		if v := decide(t, p, Response, long); v.Hit {
			t.Error("a key over the limit was remembered")
		}
	}
}

// TestVerdictOwnsItsStrings changes the message after the decision, as a pooled buffer would.
func TestVerdictOwnsItsStrings(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": "package temporal\nrequest contains {\"action\": \"seal\", \"key\": input.payload.name}\n"})
	buf := []byte("alpha")
	in := &Input{Namespace: "n", Kind: KindMemo, Name: aliased(buf)}
	first := decide(t, p, Request, in)
	copy(buf, "gamma")
	if first.Key != "alpha" {
		t.Errorf("the verdict changed to %q with the message", first.Key)
	}
	if v := decide(t, p, Request, in); v.Key != "gamma" || v.Hit {
		t.Errorf("got %q (hit %v) for another name", v.Key, v.Hit)
	}
	copy(buf, "alpha")
	if v := decide(t, p, Request, in); v.Key != "alpha" || !v.Hit {
		t.Errorf("got %q (hit %v) for the first name again", v.Key, v.Hit)
	}
}

// TestMemoKeepsQueriesApart: two namespaces and both directions may read the same and answer differently.
func TestMemoKeepsQueriesApart(t *testing.T) {
	team := func(name, key string) string {
		return "package temporal.namespaces." + name + "\n\nrequest contains {\"action\": \"seal\", \"key\": \"" + key +
			"\"} if input.payload.kind == \"memo\"\n\nresponse contains {\"action\": \"open\"} if input.payload.kind == \"memo\"\n"
	}
	p := mustLoad(t, map[string]string{"a.rego": team("a", "first"), "b.rego": team("b", "second")})
	for range 2 {
		for namespace, key := range map[string]string{"a": "first", "b": "second"} {
			in := &Input{Namespace: namespace, Kind: KindMemo}
			if v := decide(t, p, Request, in); v.Key != key {
				t.Errorf("request in %s: %s", namespace, v)
			}
			if v := decide(t, p, Response, in); v.Action != Open {
				t.Errorf("response in %s: %s", namespace, v)
			}
		}
	}
}

// TestMemoKeyIsUnambiguous: no two lists of strings make the same key.
func TestMemoKeyIsUnambiguous(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"seal\", \"key\": concat(\"|\", [input.payload.name, input.payload.path])}\n"})
	for _, in := range []Input{{Name: "ab"}, {Name: "a", Path: "b"}, {Path: "ab"}, {Name: "ab\x00"}, {Name: "\x02ab"}} {
		in.Namespace, in.Kind = "n", KindMemo
		if v := decide(t, p, Request, &in); v.Key != in.Name+"|"+in.Path {
			t.Errorf("%q and %q got %q", in.Name, in.Path, v.Key)
		}
	}
}

// TestMadeUpNamesAreBounded: however many long names callers make up, the policy cache takes no more than its share.
func TestMadeUpNamesAreBounded(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	c := newCache(defaultCacheSize)
	name := []byte(strings.Repeat("x", 1000))
	for i := range 1_000_000 {
		copy(name, fmt.Sprintf("%08d", i))
		e := &cacheEntry{key: string(name)}
		if i%4 == 0 {
			e.verdict = Verdict{Action: Deny, Reason: "no " + string(name[:i%1000])}
		}
		_, e.hash = c.get(name)
		c.put(e)
	}
	if found, _ := c.get(name); found == nil {
		t.Error("the last entry is not kept")
	}
	if grown := heap() - before; grown > maxCacheBytes*3/2 || c.bytes.Load() > maxCacheBytes {
		t.Errorf("grown by %d bytes, %d by the cache's own account", grown, c.bytes.Load())
	}
	_, hash := c.get([]byte("large"))
	c.put(&cacheEntry{hash: hash, key: "large", verdict: Verdict{Reason: strings.Repeat("x", maxEntry)}})
	if e, _ := c.get([]byte("large")); e != nil {
		t.Error("an entry is kept that takes as much as hundreds")
	}
	for i := range c.slot {
		c.replace(uint64(i), nil)
	}
	if n := c.bytes.Load(); n != 0 {
		t.Errorf("%d bytes in an empty cache", n)
	}
}
