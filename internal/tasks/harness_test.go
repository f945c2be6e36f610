package tasks

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// switched is a key service that can be cut off.
type switched struct {
	crypto.Provider
	off *atomic.Bool
}

var errCut = errors.New("cut off")

func (s switched) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) ([]byte, []byte, error) {
	if s.off.Load() {
		return nil, nil, errCut
	}
	return s.Provider.GenerateDataKey(ctx, kc)
}

func (s switched) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	if s.off.Load() {
		return nil, errCut
	}
	return s.Provider.UnwrapDataKey(ctx, wrapped, kc)
}

func keyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	return file
}

// local is a frontend in this process: calls reach its methods without a network.
type local struct {
	workflowservice.WorkflowServiceServer
}

func (l local) Invoke(ctx context.Context, method string, request, reply any, _ ...grpc.CallOption) error {
	md, _ := metadata.FromOutgoingContext(ctx)
	for _, m := range workflowservice.WorkflowService_ServiceDesc.Methods {
		if m.MethodName != path.Base(method) {
			continue
		}
		answer, err := m.Handler(l.WorkflowServiceServer, metadata.NewIncomingContext(ctx, md), func(q any) error {
			proto.Merge(q.(proto.Message), request.(proto.Message))
			return nil
		}, nil)
		if err != nil {
			return err
		}
		b, err := proto.Marshal(answer.(proto.Message))
		if err != nil {
			return err
		}
		return frame.Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, reply)
	}
	return status.Error(codes.Unimplemented, method)
}

func (local) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no method of WorkflowService is a stream")
}

// guarded is a Tasks between workers and a local frontend.
type guarded struct {
	*Tasks
	keys     *keyring.Keyring
	rewriter *rewrite.Rewriter
	upstream local
	log      *lockedBuffer
	answered chan string
	memory   rewrite.Memory // of what goes on in the background; nil: any amount
}

const opensAll = `package temporal

response contains {"action": "open"}
`

// guard returns a Tasks with the rules of a policy and a key in a file, which is cut off while off is true.
func guard(t *testing.T, f workflowservice.WorkflowServiceServer, rules, file string, off *atomic.Bool) *guarded {
	t.Helper()
	logged := new(lockedBuffer)
	log := slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	keys, err := keyring.New(t.Context(), keyring.Options{Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file}}, Log: log,
		Open: func(ctx context.Context, uri string) (crypto.Provider, error) {
			p, err := localkey.Open(ctx, uri)
			return switched{p, off}, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	engine, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte(rules), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	rewriter, err := rewrite.New(rewrite.Options{Keys: keys, Policy: engine, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{keys: keys, rewriter: rewriter, upstream: local{f}, log: logged, answered: make(chan string, 100)}
	g.Tasks, err = New(Options{Rewriter: rewriter, Keys: keys, Answered: func(m string) { g.answered <- m }, Log: log,
		Unopened: func(context.Context, Call, string, int, error) {},
		Memory:   func() (rewrite.Memory, func()) { return cmp.Or[rewrite.Memory](g.memory, new(scarce)), func() {} },
		Panicked: func(what string, value any) error { return status.Errorf(codes.Internal, "%s: %v", what, value) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// call begins a call with a worker's credentials.
func (g *guarded) call(t *testing.T, method string, request proto.Message) Call {
	t.Helper()
	in, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	m := g.rewriter.Method(service + method)
	caller := &policy.Caller{Kind: "anonymous", Listener: "default"}
	session := g.rewriter.Begin(m, caller)
	if err := session.Identify(in); err != nil {
		t.Fatal(err)
	}
	return Call{Method: m, Caller: caller, Request: in, Session: session, Upstream: g.upstream}
}

// poll makes a worker's poll with a token, as the proxy does: it looks for paused activities and opens what is handed out.
func (g *guarded) poll(t *testing.T, token string) *workflowservice.PollActivityTaskQueueResponse {
	t.Helper()
	out := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("authorization", token))
	request := &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"}
	call := g.call(t, "PollActivityTaskQueue", request)
	g.FindPaused(out, call)
	answer, err := call.client().PollActivityTaskQueue(out, request)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := proto.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	g.keys.Confirm("clinic")
	plain, err := call.Session.Response(out, sealed)
	if err != nil {
		plain, err = g.Open(out, call, Unopened{Sealed: sealed, Arrived: time.Now(), Cause: err})
	}
	if err != nil {
		t.Fatal(err)
	}
	return read(new(workflowservice.PollActivityTaskQueueResponse), plain)
}

// seal returns an input as a proxy sealed it that is gone.
func seal(t *testing.T, file string) *commonpb.Payloads {
	t.Helper()
	g := guard(t, nil, opensAll, file, new(atomic.Bool))
	request := &workflowservice.StartWorkflowExecutionRequest{Namespace: "clinic", WorkflowId: "w-1", WorkflowType: &commonpb.WorkflowType{Name: "Admission"},
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"x"`)}}}}
	call := g.call(t, "StartWorkflowExecution", request)
	sealed, err := call.Session.Request(t.Context(), call.Request)
	if err != nil {
		t.Fatal(err)
	}
	return read(new(workflowservice.StartWorkflowExecutionRequest), sealed).GetInput()
}

// lockedBuffer is a log that a test may read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("this did not come about within 10 s")
}
