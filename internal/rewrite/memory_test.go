package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// counter is a Memory with a limit.
type counter struct{ n, most, limit int64 }

var errFull = errors.New("others use it")

func (c *counter) Charge(n int64) error {
	if c.n+n > c.limit {
		return errFull
	}
	c.n += n
	c.most = max(c.most, c.n)
	return nil
}

// counted has a request sealed, or a response opened, with its memory counted.
func counted(t testing.TB, r *Rewriter, method string, in []byte, memory Memory, response bool) (kind Kind, err error) {
	t.Helper()
	s := r.call(r.Method(service + method))
	defer s.Done()
	s.CountIn(memory)
	if response {
		_, err = s.Response(context.Background(), in)
	} else {
		_, err = s.Request(context.Background(), in)
	}
	var e *Error
	if errors.As(err, &e) {
		kind = e.Kind
	}
	return kind, err
}

// numbered is a field on the wire.
func numbered(num protowire.Number, content []byte) []byte { return wireField(num, content) }

// manyParts are messages that take far more memory than they have bytes.
func manyParts() map[string]struct {
	method string
	in     []byte
} {
	type message = struct {
		method string
		in     []byte
	}
	head := func(times int) (in []byte) {
		for range times {
			in = append(in, numbered(9, []byte(testNamespace))...)
		}
		return in
	}
	decision := func(times, n int, command []byte) []byte {
		return append(head(times), bytes.Repeat(numbered(2, command), n)...)
	}
	chain := func(depth int, leaf []byte) []byte {
		f := leaf
		for range depth {
			f = append(bytes.Clone(leaf), numbered(4, f)...)
		}
		return f
	}
	failure := func(depth int, leaf []byte) []byte { return numbered(5, numbered(1, chain(depth, leaf))) }
	return map[string]message{
		"empty commands after a repeated field": {"RespondWorkflowTaskCompleted", decision(2, 200_000, nil)},
		"empty payloads":                        {"RespondActivityTaskCompleted", numbered(2, bytes.Repeat([]byte{0x0a, 0}, 200_000))},
		"commands with empty attributes":        {"RespondWorkflowTaskCompleted", decision(1, 200_000, numbered(2, nil))},
		"chains of failures":                    {"RespondWorkflowTaskCompleted", decision(1, 100, failure(1000, nil))},
		"chains of failures with messages":      {"RespondWorkflowTaskCompleted", decision(1, 100, failure(500, numbered(1, []byte("m"))))},
	}
}

// TestPartsAreCounted: what a message takes by the number of its parts is counted, and refused where it is not free.
func TestPartsAreCounted(t *testing.T) {
	r := newRewriter(t, sealAll)
	for name, test := range manyParts() {
		t.Run(name, func(t *testing.T) {
			all := &counter{limit: 1 << 40}
			kind, _ := counted(t, r, test.method, test.in, all, false)
			if all.most < 4*int64(len(test.in)) {
				t.Errorf("%d bytes are counted for a message of %d", all.most, len(test.in))
			}
			if kind == KindMemory {
				t.Errorf("refused for memory although all is free")
			}
			little := &counter{limit: all.most / 2}
			if kind, err := counted(t, r, test.method, test.in, little, false); kind != KindMemory || !errors.Is(err, errFull) {
				t.Errorf("with half of it: %v %v", kind, err)
			}
		})
	}
	// What every worker sends costs no lock of the server.
	ordinary := bytesOf(t, &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace, Result: jsonNoise(100 << 10)})
	none := &counter{}
	if _, err := counted(t, r, "RespondActivityTaskCompleted", ordinary, none, false); err != nil || none.most != 0 {
		t.Errorf("an ordinary message counts %d: %v", none.most, err)
	}
}

// TestTooMuchForOneMessage: a message that takes too much by itself is refused for good.
func TestTooMuchForOneMessage(t *testing.T) {
	r := newRewriter(t, sealAll)
	in := append(bytes.Repeat(numbered(9, []byte(testNamespace)), 2), bytes.Repeat([]byte{0x12, 0}, 2_000_000)...)
	if kind, err := counted(t, r, "RespondWorkflowTaskCompleted", in, nil, false); kind != KindTooLarge || !errors.Is(err, ErrTooMuch) {
		t.Errorf("%v %v", kind, err)
	}
}

// nexusChain is the answer of a Nexus handler that failed, with so many causes.
func nexusChain(t testing.TB, depth int) []byte {
	t.Helper()
	var f *nexuspb.Failure
	for range depth {
		f = &nexuspb.Failure{Metadata: map[string]string{"k": "v"}, Cause: f}
	}
	return bytesOf(t, &workflowpb.RespondNexusTaskFailedRequest{Namespace: testNamespace, TaskToken: []byte("t"),
		Error: &nexuspb.HandlerError{ErrorType: "INTERNAL", Failure: f}})
}

// allocated returns how many bytes a function allocates.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// TestLongChainsAreLinear: a chain of causes twice as long takes twice the memory.
func TestLongChainsAreLinear(t *testing.T) {
	r := newRewriter(t, sealAll)
	cost := func(depth int) int64 {
		in := nexusChain(t, depth)
		least := int64(math.MaxInt64)
		for range 5 { // pooled memory may be there or not
			least = min(least, allocated(func() {
				if _, err := counted(t, r, "RespondNexusTaskFailed", in, nil, false); err != nil {
					t.Fatal(err)
				}
			}))
		}
		return least
	}
	cost(1000)                                          // caches
	if one, two := cost(500), cost(1000); two > 3*one { // what repeats the causes below each takes four times as much
		t.Errorf("%d bytes for 500 causes, %d for 1000", one, two)
	}
}

// anyOf nests messages in google.protobuf.Any, depth times. Each bit of k chooses the type at one depth.
func anyOf(depth, k int) []byte {
	var inner []byte
	for i := range depth {
		name, number := "/google.rpc.Status", protowire.Number(3)
		if k>>i&1 == 1 {
			name, number = "/temporal.api.protocol.v1.Message", 5
		}
		var body []byte
		if inner != nil {
			body = numbered(number, inner)
		}
		inner = append(numbered(1, []byte(name)), numbered(2, body)...)
	}
	number := (&workflowpb.RespondWorkflowTaskCompletedRequest{}).ProtoReflect().Descriptor().Fields().ByName("messages").Number()
	return numbered(number, numbered(5, inner))
}

// TestPlansForAnyAreBounded: ever new types within others leave a bounded number of plans, and nesting ends.
func TestPlansForAnyAreBounded(t *testing.T) {
	r := newRewriter(t, sealAll)
	for k := range 2 * nestedPlans {
		if kind, err := counted(t, r, "RespondWorkflowTaskCompleted", anyOf(12, k), nil, false); err != nil {
			t.Fatal(kind, err)
		}
	}
	if entries, size := r.plan.Load().nested.size(); entries > nestedPlans || size > nestedPlansSize || entries < nestedPlans/2 {
		t.Errorf("%d plans of %d bytes are kept", entries, size)
	}
	if kind, err := counted(t, r, "RespondWorkflowTaskCompleted", anyOf(maxAnys, 0), nil, false); err != nil {
		t.Error(kind, err)
	}
	if kind, err := counted(t, r, "RespondWorkflowTaskCompleted", anyOf(maxAnys+2, 0), nil, false); kind != KindMalformed {
		t.Error(kind, err)
	}
}

// TestPlansOfOneMessageAreCounted: a message cannot have any number of plans compiled.
func TestPlansOfOneMessageAreCounted(t *testing.T) {
	r := newRewriter(t, sealAll)
	var in []byte
	for k := range 2000 {
		in = append(in, anyOf(12, k)...)
	}
	all := &counter{limit: 1 << 40}
	if _, err := counted(t, r, "RespondWorkflowTaskCompleted", in, all, false); err != nil || all.most < 512<<10 {
		t.Errorf("%d bytes are counted: %v", all.most, err)
	}
}

// TestTaskMemoryIsBounded: tasks with long names take a bounded number of bytes.
func TestTaskMemoryIsBounded(t *testing.T) {
	m := newTaskMemory()
	long := string(bytes.Repeat([]byte("n"), 1000))
	for i := range 60_000 {
		known := &task{namespace: long}
		known.facts.values = [5]string{long, long, long, long, long}
		m.remember(fmt.Append(nil, i), known)
	}
	if entries, size := m.tasks.size(); size > rememberedTaskBytes || entries < 1000 {
		t.Errorf("%d tasks of %d bytes are kept", entries, size)
	}
	if m.recall([]byte("59999")) == nil || m.recall([]byte("0")) != nil {
		t.Error("the oldest is kept, or the newest is not")
	}
}

// compressedPage returns a function that makes answers with n compressed payloads of 2 MB.
func compressedPage(t *testing.T, r *Rewriter) func(n int) []byte {
	t.Helper()
	seal, _, err := r.state.Load().Keys.Sealer(context.Background(), testNamespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 2_000_000)
	for i := 0; i < len(data); i += 260 {
		data[i] = noise(1)[0]
	}
	sealed, err := seal.AppendPayload(nil, bytesOf(t, &commonpb.Payload{Data: data}), true, new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	return func(n int) []byte {
		one := new(commonpb.Payload)
		if err := proto.Unmarshal(sealed, one); err != nil {
			t.Fatal(err)
		}
		input := &commonpb.Payloads{}
		for range n {
			input.Payloads = append(input.Payloads, one)
		}
		return bytesOf(t, &workflowpb.PollActivityTaskQueueResponse{TaskToken: []byte("t"), Input: input})
	}
}

// TestMemoryOfWhatOpens: the table in docs/operations.md holds for answers that open to much. The race detector takes memory of
// its own.
func TestMemoryOfWhatOpens(t *testing.T) {
	r := newRewriter(t, sealAll)
	checkMemory(t, r, memoryFactors(t)["an answer"], "PollActivityTaskQueue", compressedPage(t, r)(10), true)
}

// TestWhatOpensIsCountedBefore: payloads that open to more than is free are not decompressed, and a message that opens to
// more than one may is refused for good.
func TestWhatOpensIsCountedBefore(t *testing.T) {
	r := newRewriter(t, sealAll)
	page := compressedPage(t, r)
	all := &counter{limit: 1 << 40}
	if _, err := counted(t, r, "PollActivityTaskQueue", page(10), all, true); err != nil || all.most < 19_000_000 || all.most > 25_000_000 {
		t.Errorf("%d bytes are counted: %v", all.most, err)
	}
	in, little := page(60), &counter{limit: 8 << 20}
	took := allocated(func() {
		if kind, err := counted(t, r, "PollActivityTaskQueue", in, little, true); kind != KindMemory || !errors.Is(err, errFull) {
			t.Error(kind, err)
		}
	})
	if took > 40<<20 {
		t.Errorf("%d bytes are allocated where 8 MiB are free", took)
	}
	if kind, err := counted(t, r, "PollActivityTaskQueue", page(80), nil, true); kind != KindTooLarge || !errors.Is(err, ErrTooMuch) {
		t.Error(kind, err)
	}
}

// TestContentIsCounted: the JSON values that rules look into count against the call.
func TestContentIsCounted(t *testing.T) {
	r := newRewriter(t, "package temporal\n\nrequest contains {\"action\": \"pass\"} if input.content.json[0] == 1\n")
	in := bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{
		Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte("[1" + strings.Repeat(",0", 50_000) + "]")}}}})
	memory := &counter{limit: 8 << 20}
	if _, err := counted(t, r, "StartWorkflowExecution", in, memory, false); err != nil || memory.most < 4<<20 {
		t.Errorf("%d bytes charged, %v", memory.most, err)
	}
	if kind, err := counted(t, r, "StartWorkflowExecution", in, &counter{limit: 1 << 20}, false); kind != KindMemory {
		t.Errorf("others use the memory: %v", err)
	}
}

// memoryFactors reads the table in docs/operations.md: how many bytes may be allocated for each byte of a message and each byte
// that is counted for it.
func memoryFactors(t testing.TB) map[string]int64 {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	factors := map[string]int64{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.+?) \| (\d+) times`).FindAllStringSubmatch(string(text), -1) {
		if factors[row[1]], err = strconv.ParseInt(row[2], 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return factors
}

// constantMemory is what a message may take beside that: pooled memory that was collected, and plans.
const constantMemory = 2 << 20

// checkMemory fails if rewriting a message allocates more than the table allows.
func checkMemory(t testing.TB, r *Rewriter, factor int64, method string, in []byte, response bool) {
	t.Helper()
	all := &counter{limit: 1 << 40}
	took := allocated(func() { _, _ = counted(t, r, method, in, all, response) })
	if most := factor*(int64(len(in))+all.most) + constantMemory; took > most {
		t.Errorf("%s: %d bytes are allocated for a message of %d bytes and %d that are counted; at most %d may be", method, took, len(in), all.most, most)
	}
}

// TestMemoryFactors: the table in docs/operations.md holds.
func TestMemoryFactors(t *testing.T) {
	r := newRewriter(t, sealAll)
	factors := memoryFactors(t)
	parts := manyParts()
	start := &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: jsonNoise(100 << 10), Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}}
	for i := range 20_000 {
		start.Memo.Fields[fmt.Sprint(i)] = &commonpb.Payload{Data: []byte("1")}
	}
	for class, tests := range map[string][]string{
		"a request with many parts":                                 {"empty payloads", "commands with empty attributes"},
		"a request in which a field comes twice that may come once": {"empty commands after a repeated field"},
		"failures with many causes":                                 {"chains of failures", "chains of failures with messages"},
		"a Nexus failure with many causes":                          nil,
		"any other request":                                         nil,
		"an answer":                                                 nil,
	} {
		if factors[class] == 0 {
			t.Errorf("the table has no row for %q", class)
		}
		for _, name := range tests {
			checkMemory(t, r, factors[class], parts[name].method, parts[name].in, false)
		}
	}
	checkMemory(t, r, factors["a Nexus failure with many causes"], "RespondNexusTaskFailed", nexusChain(t, 1000), false)
	checkMemory(t, r, factors["any other request"], "StartWorkflowExecution", bytesOf(t, start), false)
	history := bytesOf(t, &workflowpb.GetWorkflowExecutionHistoryResponse{History: historyOf(3000, 200)})
	m := r.Method(service + "GetWorkflowExecutionHistory")
	out, err := sealed(t, r, m, m.response.desc, history)
	if err != nil {
		t.Fatal(err)
	}
	checkMemory(t, r, factors["an answer"], "GetWorkflowExecutionHistory", out, true)
}
