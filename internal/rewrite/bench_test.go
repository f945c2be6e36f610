package rewrite

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/proxy"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

const service = "/temporal.api.workflowservice.v1.WorkflowService/"

// benchPolicy lets everything be sealed with one key and opened again, so
// that every verdict comes from the memo.
const benchPolicy = sealAll

// benchCase is one message, sealed or opened by three means.
type benchCase struct {
	name    string
	method  string
	open    bool
	message proto.Message
	sealed  []byte // open: the message as the server has it
}

func payloadOf(size int) *commonpb.Payload {
	data := bytes.Repeat([]byte(`{"patient":"42"}`), size/16+1)[:size]
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: data}
}

func payloadsOf(size int) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{payloadOf(size)}}
}

func historyOf(events, size int) *historypb.History {
	h := &historypb.History{}
	for i := range events {
		h.Events = append(h.Events, &historypb.HistoryEvent{
			EventId: int64(i + 1), EventTime: timestamppb.Now(), TaskId: int64(1000 + i), EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
			Attributes: &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{
				Result: payloadsOf(size), ScheduledEventId: int64(i), StartedEventId: int64(i), Identity: "worker@host"}},
		})
	}
	return h
}

func benchCases() []*benchCase {
	start := &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, WorkflowId: "admission-1", RequestId: "c0ffee",
		WorkflowType: &commonpb.WorkflowType{Name: "Admission"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"}, Input: payloadsOf(1024)}
	result := &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace, TaskToken: make([]byte, 180), Identity: "w", Result: payloadsOf(100 << 10)}
	task := func(size int) proto.Message {
		return &workflowpb.PollActivityTaskQueueResponse{TaskToken: make([]byte, 180), ActivityId: "5", Input: payloadsOf(size),
			ActivityType: &commonpb.ActivityType{Name: "BookScan"}, WorkflowType: &commonpb.WorkflowType{Name: "Admission"},
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "admission-1", RunId: "r"}}
	}
	return []*benchCase{
		{name: "seal_start_1KB", method: "StartWorkflowExecution", message: start},
		{name: "seal_result_100KB", method: "RespondActivityTaskCompleted", message: result},
		{name: "open_task_1KB", method: "PollActivityTaskQueue", open: true, message: task(1024)},
		{name: "open_task_100KB", method: "PollActivityTaskQueue", open: true, message: task(100 << 10)},
		{name: "seal_history_1000", method: "GetWorkflowExecutionHistory", message: &workflowpb.GetWorkflowExecutionHistoryResponse{History: historyOf(1000, 200)}},
		{name: "open_history_1000", method: "GetWorkflowExecutionHistory", open: true, message: &workflowpb.GetWorkflowExecutionHistoryResponse{History: historyOf(1000, 200)}},
		{name: "no_payloads", method: "DescribeTaskQueue", message: &workflowpb.DescribeTaskQueueRequest{Namespace: testNamespace, TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"}}},
	}
}

// runs gives the three functions that are timed against each other: ours, the
// floor (copy the message, encrypt the payloads' bytes) and the visitor of
// go.temporal.io/api/proxy with our crypto.
func (bc *benchCase) runs(tb testing.TB, r *Rewriter) (ours, floor, visitor func()) {
	m := *r.Method(service + bc.method)
	plain, err := proto.Marshal(bc.message)
	if err != nil {
		tb.Fatal(err)
	}
	if bc.name == "no_payloads" {
		return bc.untouched(r, plain)
	}
	request := compiler{plan: r.plan.Load(), method: m.name}
	m.request = request.message(bc.message.ProtoReflect().Descriptor(), "", "")
	if bc.sealed, err = sealed(tb, r, &m, bc.message.ProtoReflect().Descriptor(), plain); err != nil {
		tb.Fatal(err)
	}
	ctx := context.Background()
	ours = func() {
		c := r.Begin(&m, nil)
		c.call.namespace = testNamespace
		var err error
		if bc.open {
			_, err = c.Response(ctx, bc.sealed)
		} else {
			_, err = c.Request(ctx, plain)
		}
		if err != nil {
			tb.Fatal(err)
		}
		c.Done()
	}
	return ours, bc.floor(plain), bc.visitor(tb, r, plain)
}

func (bc *benchCase) untouched(r *Rewriter, plain []byte) (ours, floor, visitor func()) {
	path := service + bc.method
	ours = func() {
		if r.Method(path).RequestTouched() {
			panic("the method has no payloads")
		}
	}
	visitor = func() {
		m := bc.message.ProtoReflect().New().Interface()
		_ = proto.Unmarshal(plain, m)
		_, _ = proto.Marshal(m)
	}
	dst := make([]byte, len(plain))
	return ours, func() { copy(dst, plain) }, visitor
}

func (bc *benchCase) floor(plain []byte) func() {
	block, _ := aes.NewCipher(make([]byte, 32))
	aead, _ := cipher.NewGCM(block)
	var pieces [][]byte
	_ = proxy.VisitPayloads(context.Background(), proto.Clone(bc.message), proxy.VisitPayloadsOptions{
		Visitor: func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
			for _, p := range ps {
				b, _ := proto.Marshal(p)
				if bc.open {
					b = aead.Seal(nil, make([]byte, 12), b, nil)
				}
				pieces = append(pieces, b)
			}
			return ps, nil
		}})
	message := plain
	if bc.open {
		message = bc.sealed
	}
	copied, out := make([]byte, len(message)), make([]byte, 0, 1<<20)
	var nonce [12]byte
	return func() {
		copy(copied, message)
		for i, p := range pieces {
			if bc.open {
				if _, err := aead.Open(out[:0], nonce[:], p, nil); err != nil {
					panic(err)
				}
				continue
			}
			binary.BigEndian.PutUint32(nonce[:], uint32(i))
			out = aead.Seal(out[:0], nonce[:], p, nil)
		}
		if bc.open {
			nonce = [12]byte{}
		}
	}
}

func (bc *benchCase) visitor(tb testing.TB, r *Rewriter, plain []byte) func() {
	ctx := context.Background()
	visit := func(p *commonpb.Payload) (*commonpb.Payload, error) {
		raw, err := proto.Marshal(p)
		if err != nil {
			return nil, err
		}
		if bc.open {
			s, _, err := envelope.ParsePayload(raw)
			if err != nil {
				return nil, err
			}
			raw, _, err = r.state.Load().Keys.Open(ctx, nil, &s, testNamespace, new(keyring.Run))
			if err != nil {
				return nil, err
			}
		} else {
			s, _, err := r.state.Load().Keys.Sealer(ctx, testNamespace, "default")
			if err != nil {
				return nil, err
			}
			if raw, err = s.AppendPayload(nil, raw, false, new(envelope.Nonces)); err != nil {
				return nil, err
			}
		}
		q := new(commonpb.Payload)
		return q, proto.Unmarshal(raw, q)
	}
	options := proxy.VisitPayloadsOptions{SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
			out := make([]*commonpb.Payload, len(ps))
			for i, p := range ps {
				var err error
				if out[i], err = visit(p); err != nil {
					return nil, err
				}
			}
			return out, nil
		}}
	in := plain
	if bc.open {
		in = bc.sealed
	}
	return func() {
		m := bc.message.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(in, m); err != nil {
			tb.Fatal(err)
		}
		if err := proxy.VisitPayloads(ctx, m, options); err != nil {
			tb.Fatal(err)
		}
		if _, err := proto.Marshal(m); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkRewrite(b *testing.B) {
	r := newRewriter(b, benchPolicy)
	for _, bc := range benchCases() {
		ours, floor, visitor := bc.runs(b, r)
		for _, v := range []struct {
			name string
			run  func()
		}{{"ours", ours}, {"copy_and_aes", floor}, {"visitor", visitor}} {
			b.Run(bc.name+"/"+v.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					v.run()
				}
			})
		}
	}
}

// TestRewriteCosts prints the ratios of BenchmarkRewrite, each the median of
// rounds in which the three take turns: run it by `make bench-rewrite`.
func TestRewriteCosts(t *testing.T) {
	if os.Getenv("REWRITE_COSTS") == "" {
		t.Skip("make bench-rewrite runs it")
	}
	r := newRewriter(t, benchPolicy)
	for _, bc := range benchCases() {
		ours, floor, visitor := bc.runs(t, r)
		var limits, visitors []float64
		for range 7 {
			o, f, v := nsPerRun(ours), nsPerRun(floor), nsPerRun(visitor)
			limits, visitors = append(limits, o/f), append(visitors, v/o)
		}
		slices.Sort(limits)
		slices.Sort(visitors)
		fmt.Printf("%s x_limit=%.2f x_visitor=%.1f allocs=%.0f\n", bc.name, limits[3], visitors[3], testing.AllocsPerRun(50, ours))
	}
}

// TestScanCost prints what finding the payload costs in a message of 1 MB,
// beside one of 1 KB: the payload's bytes are not looked at, so the ratio is
// about one. Run it by `make bench-rewrite`.
func TestScanCost(t *testing.T) {
	if os.Getenv("REWRITE_COSTS") == "" {
		t.Skip("make bench-rewrite runs it")
	}
	r := newRewriter(t, benchPolicy)
	m := r.Method(service + "RespondActivityTaskCompleted")
	scan := func(size int) func() {
		in := bytesOf(t, &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace, TaskToken: make([]byte, 180), Result: payloadsOf(size)})
		w := &walk{plan: r.plan.Load(), method: m.name}
		return func() {
			w.reset(in)
			if err := w.run(m.request); err != nil || len(w.slots) != 1 {
				t.Fatal(err, len(w.slots))
			}
		}
	}
	small, large := scan(1<<10), scan(1<<20)
	var ratios []float64
	for range 7 {
		s, l := nsPerRun(small), nsPerRun(large)
		ratios = append(ratios, l/s)
	}
	slices.Sort(ratios)
	fmt.Printf("scan_1MB_beside_1KB x=%.2f allocs=%.0f\n", ratios[3], testing.AllocsPerRun(50, large))
}

func nsPerRun(fn func()) float64 {
	res := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			fn()
		}
	})
	return float64(res.T.Nanoseconds()) / float64(res.N)
}

// TestAllocations holds what a call may allocate once everything is warm, whether or not it keeps account of what it opens.
func TestAllocations(t *testing.T) {
	for _, accounts := range []bool{false, true} {
		r := newRewriter(t, benchPolicy)
		r.accounts = accounts
		allocations(t, r)
	}
}

func allocations(t *testing.T, r *Rewriter) {
	for _, bc := range benchCases() {
		ours, _, _ := bc.runs(t, r)
		ours()
		allowed := 0.0
		if strings.HasPrefix(bc.name, "open_task") {
			allowed = 8 // the task is remembered: its token's hash and five facts
		}
		if got := testing.AllocsPerRun(50, ours); got > allowed {
			t.Errorf("%s: %.1f allocations, want at most %.0f", bc.name, got, allowed)
		}
	}
}
