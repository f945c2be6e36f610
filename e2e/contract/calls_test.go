package contract

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// What a caller sets arrives, and what the frontend sets comes back.
func TestMetadataPassesBothWays(t *testing.T) {
	t.Parallel()
	r := plain(t)
	sent := metadata.Pairs(
		"client-name",
		"temporal-go",
		"client-version",
		"1.2.3",
		"x-custom",
		"one",
		"x-custom",
		"two",
		"x-bytes-bin",
		"\x00\xff",
		"authorization",
		"Bearer of-the-frontend",
		"traceparent",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
	)
	a := answer{
		"SignalWorkflowExecution",
		blackbox.Answer{Header: metadata.Pairs("x-answer", "header"), Trailer: metadata.Pairs("x-trailer", "trailer")},
	}
	e := r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Metadata: sent, Body: blackbox.Marshal(
		&workflowservice.SignalWorkflowExecutionRequest{Namespace: "calls", Input: list(text("CANARY"))})}, a)
	e.want(t, "OK")
	got := e.forwarded(t, "SignalWorkflowExecution").Metadata
	for key, values := range sent {
		if key == "traceparent" { // a new span, the same trace
			if v := got.Get(key); len(v) != 1 || !strings.Contains(v[0], "0af7651916cd43dd8448eb211c80319c") {
				t.Errorf("header %s arrived as %q", key, v)
			}
			continue
		}
		if fmt.Sprint(got.Get(key)) != fmt.Sprint(values) {
			t.Errorf("header %s arrived as %q, sent was %q", key, got.Get(key), values)
		}
	}
	if fmt.Sprint(e.Header.Get("x-answer")) != "[header]" || fmt.Sprint(e.Trailer.Get("x-trailer")) != "[trailer]" {
		t.Errorf("the caller got header %v and trailer %v", e.Header, e.Trailer)
	}
	e = r.do(
		t,
		blackbox.Request{
			Method: "SignalWorkflowExecution",
			Body:   blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: "calls"}),
		},
		answer{
			"SignalWorkflowExecution",
			blackbox.Answer{Status: statusOf(5, "workflow not found"), Trailer: metadata.Pairs("x-trailer", "of an error")},
		},
	)
	if e.Code() != "NotFound" || e.Status.GetMessage() != "workflow not found" || len(e.Trailer.Get("x-trailer")) != 1 {
		t.Errorf("the frontend's error came as %s %q with trailer %v", e.Code(), e.Status.GetMessage(), e.Trailer)
	}
	// By these a Temporal server knows its own parts, which have priority and rights that callers don't.
	own := metadata.Pairs("caller-type", "operator", "caller-name", "system", "call-initiation", "x",
		"temporal-principal-type", "x", "temporal-principal-name", "x")
	e = r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Metadata: own,
		Body: blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: "calls"})})
	got = e.forwarded(t, "SignalWorkflowExecution").Metadata
	for key := range own {
		if v := got.Get(key); len(v) != 0 {
			t.Errorf("header %s arrived as %q", key, v)
		}
	}
	// The namespace that a header names is the one that was checked.
	e = r.do(
		t,
		blackbox.Request{
			Method:   "SignalWorkflowExecution",
			Metadata: metadata.Pairs("temporal-namespace", "another"),
			Body: blackbox.Marshal(
				&workflowservice.SignalWorkflowExecutionRequest{Namespace: "calls"}),
		},
	)
	if got := e.forwarded(t, "SignalWorkflowExecution").Metadata.Get("temporal-namespace"); fmt.Sprint(got) != "[calls]" {
		t.Errorf("temporal-namespace arrived as %q", got)
	}
}

// A poll whose caller went away is canceled at the frontend at once, or its task is lost.
func TestDeadlinesAndCancellationReachTheFrontend(t *testing.T) {
	t.Parallel()
	r := plain(t)
	slow := func(delay time.Duration) blackbox.Answer { return blackbox.Answer{Delay: delay} }
	body := blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "calls"})
	for _, method := range []string{"PollWorkflowTaskQueue", "GetWorkflowExecutionHistory"} {
		call := r.NewCall()
		r.Set(call, method, slow(20*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		go r.client.Do(ctx, blackbox.Request{Call: call, Method: method, Body: body, Timeout: 17 * time.Second})
		e := exchange{call: call, rig: r}
		received := func() (blackbox.Received, error) {
			for _, q := range r.Of(call) {
				if q.Name() == method {
					return q, nil
				}
			}
			return blackbox.Received{}, fmt.Errorf("%s has not reached the frontend", method)
		}
		eventually(t, 10*time.Second, func() error { _, err := received(); return err })
		q := e.forwarded(t, method)
		if q.Deadline <= 5*time.Second || q.Deadline > 17*time.Second {
			t.Errorf("%s: the frontend was given %s, the caller waits for 17 s", method, q.Deadline)
		}
		cancel()
		eventually(t, 5*time.Second, func() error {
			if q, err := received(); err != nil || !q.Canceled {
				return fmt.Errorf("%s: the frontend does not know that the caller has left", method)
			}
			return nil
		})
	}
	// A deadline that passes ends the call there as well.
	e := r.do(
		t,
		blackbox.Request{Method: "GetWorkflowExecutionHistory", Body: body, Timeout: time.Second},
		answer{"GetWorkflowExecutionHistory", slow(20 * time.Second)},
	)
	e.want(t, "DeadlineExceeded")
}

func TestWhatIsNotKnownIsNotForwarded(t *testing.T) {
	t.Parallel()
	r := plain(t)
	for _, method := range []string{
		"/temporal.api.workflowservice.v1.WorkflowService/OfANewerServer", "/temporal.api.operatorservice.v1.OperatorService/OfANewerServer",
		"/temporal.api.cloud.cloudservice.v1.CloudService/GetUsers", "/temporal.server.api.adminservice.v1.AdminService/DescribeMutableState",
		"/temporal.server.api.historyservice.v1.HistoryService/GetMutableState", "/example.v1.Anything/Do", "/temporal.api.workflowservice.v1.workflowservice/GetSystemInfo",
	} {
		r.do(t, blackbox.Request{Method: method, Body: blackbox.Marshal(list(text("CANARY")))}).refused(t, "Unimplemented")
	}
}

// AdminService cannot be let through by the config either.
func TestAdminServiceCannotBeConfigured(t *testing.T) {
	t.Parallel()
	r, err := newRig(t.TempDir(), setup{extra: "services: [temporal.server.api.adminservice.v1.AdminService]\n"})
	if err == nil {
		defer r.stop()
		r.do(
			t,
			blackbox.Request{Method: "/temporal.server.api.adminservice.v1.AdminService/DescribeMutableState"},
		).refused(
			t,
			"Unimplemented",
		)
	}
}

func TestHealthAndSystemInfo(t *testing.T) {
	t.Parallel()
	r := plain(t)
	own := r.do(t, blackbox.Request{Method: "/grpc.health.v1.Health/Check"})
	own.want(t, "OK")
	if !bytes.Equal(own.Body, []byte{8, 1}) || len(own.requests()) > 0 {
		t.Errorf("the proxy's own health is % x, %d requests reached the frontend", own.Body, len(own.requests()))
	}
	named := protowire.AppendString(
		protowire.AppendTag(nil, 1, protowire.BytesType),
		"temporal.api.workflowservice.v1.WorkflowService",
	)
	e := r.do(
		t,
		blackbox.Request{Method: "/grpc.health.v1.Health/Check", Body: named},
		answer{"Check", blackbox.Answer{Body: []byte{8, 2}}},
	)
	e.want(t, "OK")
	if !bytes.Equal(e.Body, []byte{8, 2}) {
		t.Errorf("the health of a service of the frontend's is % x", e.Body)
	}
	info := &workflowservice.GetSystemInfoResponse{
		ServerVersion: "9.9.9",
		Capabilities: &workflowservice.GetSystemInfoResponse_Capabilities{
			EncodedFailureAttributes: true, UpsertMemo: true, Nexus: true},
	}
	e = r.do(t, blackbox.Request{Method: "GetSystemInfo"}, reply("GetSystemInfo", info))
	equal(t, "GetSystemInfo", answered(t, e, new(workflowservice.GetSystemInfoResponse)), info)
}

// Requests that another decoder might read differently are refused, or sealed in every reading.
func TestOddEncodings(t *testing.T) {
	t.Parallel()
	r := plain(t)
	field := func(num protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), value)
	}
	start := blackbox.Marshal(
		&workflowservice.StartWorkflowExecutionRequest{Namespace: "calls", WorkflowId: "w", Input: list(text("CANARY"))},
	)
	input := field(5, blackbox.Marshal(list(text("CANARY 2"))))
	fail := func(m string) []byte { return blackbox.Marshal(&failurepb.Failure{Message: m}) }
	failed := blackbox.Marshal(&workflowservice.RespondActivityTaskFailedRequest{Namespace: "calls", TaskToken: []byte("t")})
	nested := failed
	nested = append(bytes.Clone(nested), field(2, append(fail("CANARY 1"), fail("CANARY 2")...))...)
	twice := append(bytes.Clone(failed), field(2, fail("CANARY 1"))...)
	twice = append(twice, field(2, fail("CANARY 2"))...)
	for name, c := range map[string]struct {
		method string
		body   []byte
	}{
		"a list of payloads twice": {"StartWorkflowExecution", append(bytes.Clone(start), input...)},
		"a failure twice":          {"RespondActivityTaskFailed", twice},
		"a message twice":          {"RespondActivityTaskFailed", nested},
	} {
		e := r.do(t, blackbox.Request{Method: c.method, Body: c.body})
		for _, q := range e.requests() {
			if bytes.Contains(q.Body, []byte("CANARY")) {
				t.Errorf("%s: forwarded in clear: %q", name, q.Body)
			}
		}
	}
	signal := []byte(
		blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: "calls", Input: list(text("CANARY"))}),
	)
	for name, body := range map[string][]byte{
		"a message that is cut":         signal[:len(signal)-3],
		"no message":                    []byte("CANARY CANARY"),
		"a payload that is cut":         append(field(1, []byte("calls")), field(4, field(1, []byte("\x0a\x50CANARY")))...),
		"a field number of 0":           append(bytes.Clone(signal), 0x02, 0x01, 'C'),
		"a group that does not end":     append(bytes.Clone(signal), 0x5b, 0x08),
		"a varint that does not end":    append(bytes.Clone(signal), 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"a payload in the wrong format": append(field(1, []byte("calls")), field(4, []byte("\x0a\x05CANAR\x07"))...),
	} {
		e := r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Body: body})
		if len(e.requests()) > 0 || e.Code() != "InvalidArgument" {
			t.Errorf("%s: %s, %d requests reached the frontend", name, e.Code(), len(e.requests()))
		}
	}
	// Without a namespace no key can be chosen.
	r.send(
		t,
		"SignalWorkflowExecution",
		&workflowservice.SignalWorkflowExecutionRequest{Input: list(text("CANARY"))},
	).refused(
		t,
		"InvalidArgument",
	)
}

// unknown appends a field that no release knows.
func unknown(m proto.Message, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(blackbox.Marshal(m), 9999, protowire.BytesType), value)
}

// A field that this build does not know passes only if it cannot hold a payload; with `strict` it never passes.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	start := &workflowservice.StartWorkflowExecutionRequest{Namespace: "calls", WorkflowId: "w"}
	payload := blackbox.Marshal(list(text("CANARY")))
	inner := &commonpb.WorkflowType{Name: "W"}
	if err := proto.Unmarshal(unknown(inner, payload), inner); err != nil {
		t.Fatal(err)
	}
	within := &workflowservice.StartWorkflowExecutionRequest{Namespace: "calls", WorkflowId: "w", WorkflowType: inner}
	send := func(r *rig, body []byte) exchange {
		return r.do(t, blackbox.Request{Method: "StartWorkflowExecution", Body: body})
	}
	r := plain(t)
	send(r, unknown(start, payload)).refused(t, "InvalidArgument")
	send(r, blackbox.Marshal(within)).refused(t, "InvalidArgument")
	harmless := unknown(start, []byte("no payload"))
	if got := send(r, harmless).forwarded(t, "StartWorkflowExecution").Body; !bytes.Equal(got, harmless) {
		t.Errorf("a harmless unknown field was forwarded as %q, sent was %q", got, harmless)
	}
	answers := unknown(&workflowservice.StartWorkflowExecutionResponse{RunId: "r"}, []byte("of a newer server"))
	e := r.do(
		t,
		blackbox.Request{Method: "StartWorkflowExecution", Body: blackbox.Marshal(start)},
		answer{"StartWorkflowExecution", blackbox.Answer{Body: answers}},
	)
	if e.want(t, "OK"); !bytes.Equal(e.Body, answers) {
		t.Errorf("an unknown field of an answer came as %q", e.Body)
	}
	strict := strictRig(t)
	send(strict, harmless).refused(t, "InvalidArgument")
	send(strict, blackbox.Marshal(start)).want(t, "OK")
	nested := &commonpb.WorkflowType{Name: "W"}
	if err := proto.Unmarshal(unknown(nested, []byte("harmless")), nested); err != nil {
		t.Fatal(err)
	}
	send(
		strict,
		blackbox.Marshal(&workflowservice.StartWorkflowExecutionRequest{Namespace: "calls", WorkflowType: nested}),
	).refused(
		t,
		"InvalidArgument",
	)
}

var strictRig = shared(func(string) (setup, error) {
	return setup{extra: "unknown_fields: strict\nlimits: {bytes: 16777216}\n"}, nil
})

// What fits the server's limits in clear fits them sealed, or is refused in words that end no workflow.
func TestSizes(t *testing.T) {
	t.Parallel()
	r := plain(t)
	const limit = 2 << 20
	random := make([]byte, limit)
	rand.Read(random)
	letters := base64.StdEncoding.EncodeToString(random)[:limit-100] // a quarter of it is air
	for name, c := range map[string]struct {
		encoding, code string
		data           []byte
	}{"compressible": {"json/plain", "OK", []byte(`"` + letters[2:] + `"`)}, "random": {"binary/plain", "InvalidArgument", random[:limit-100]}} {
		p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(c.encoding)}, Data: c.data}
		e := r.signal(t, "calls", "w", p)
		if e.Code() != c.code || strings.Contains(e.Status.GetMessage(), "larger than max") {
			t.Errorf("%s: %s: %s", name, e.Code(), e.Status.GetMessage())
		}
		for _, q := range e.requests() {
			if len(q.Body) > limit {
				t.Errorf("%s: %d bytes became %d", name, len(c.data), len(q.Body))
			}
		}
	}
	// Large answers come whole.
	sealed := r.seal(t, "calls", text("CANARY"))[0]
	large := inputHistory(sealed)
	for range 3000 {
		large.Events = append(
			large.Events,
			inputHistory(sealed, &commonpb.Payload{Data: bytes.Repeat([]byte("x"), 2000)}).Events...)
	}
	e := r.send(t, "GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "calls"},
		reply("GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryResponse{History: large}))
	got := answered(t, e, new(workflowservice.GetWorkflowExecutionHistoryResponse))
	if n := len(got.History.GetEvents()); n != len(large.Events) {
		t.Fatalf("%d events of %d came", n, len(large.Events))
	}
	equal(
		t,
		"the last event of a large history",
		got.History.Events[3000].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0],
		text("CANARY"),
	)
	// The limits that workers read leave room for an envelope.
	limits := &namespacepb.NamespaceInfo_Limits{BlobSizeLimitError: limit, MemoSizeLimitError: limit}
	e = r.send(
		t,
		"DescribeNamespace",
		&workflowservice.DescribeNamespaceRequest{Namespace: "calls"},
		reply(
			"DescribeNamespace",
			&workflowservice.DescribeNamespaceResponse{NamespaceInfo: &namespacepb.NamespaceInfo{Name: "calls", Limits: limits}},
		),
	)
	told := answered(t, e, new(workflowservice.DescribeNamespaceResponse)).NamespaceInfo.Limits
	overhead := int64(proto.Size(r.seal(t, "calls", &commonpb.Payload{Data: random[:1000]})[0]) - 1000)
	if told.BlobSizeLimitError > limit-overhead || told.MemoSizeLimitError > limit-overhead ||
		told.BlobSizeLimitError < limit-2000 {
		t.Errorf(
			"workers receive limits of %d and %d bytes, an envelope takes %d",
			told.BlobSizeLimitError,
			told.MemoSizeLimitError,
			overhead,
		)
	}
}

// SDKs know gRPC's words for a message that is too large: they are passed on for one that was too large in clear, and never
// for one that only sealing made so, since the server then terminates the workflow.
func TestTooLargeMessages(t *testing.T) {
	t.Parallel()
	large := &commonpb.Payload{Data: make([]byte, 17<<20)}
	e := strictRig(t).signal(t, "calls", "w", large)
	e.refused(t, "ResourceExhausted")
	if !strings.Contains(e.Status.GetMessage(), "grpc: received message larger than max") {
		t.Errorf("a request over the limit was refused with %q", e.Status.GetMessage())
	}
	r := plain(t)
	q := blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: "calls", Input: list(text("CANARY"))})
	sent := len(r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Body: q}).forwarded(t, "SignalWorkflowExecution").Body)
	for limit, code := range map[int]string{len(q) + 1: "InvalidArgument", len(q) - 1: "ResourceExhausted"} {
		words := fmt.Sprintf("grpc: received message larger than max (%d vs. %d)", sent, limit)
		e := r.do(t, blackbox.Request{Method: "SignalWorkflowExecution", Body: q}, failing("SignalWorkflowExecution", 8, words))
		if e.Code() != code || strings.Contains(e.Status.GetMessage(), words) != (code == "ResourceExhausted") {
			t.Errorf("of %d bytes, sealed %d, and a limit of %d the caller got %s: %s", len(q), sent, limit, e.Code(), e.Status.GetMessage())
		}
	}
}

// The SDKs of Go and Java compress their requests.
func TestCompressedRequests(t *testing.T) {
	t.Parallel()
	r := plain(t)
	conn, err := grpc.NewClient("passthrough:///"+r.listeners[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := r.NewCall()
	ctx := metadata.AppendToOutgoingContext(t.Context(), blackbox.CallHeader, call)
	_, err = workflowservice.NewWorkflowServiceClient(conn).SignalWorkflowExecution(ctx, &workflowservice.SignalWorkflowExecutionRequest{
		Namespace: "calls", Input: list(text(strings.Repeat("CANARY", 500)))}, grpc.UseCompressor("gzip"))
	if err != nil {
		t.Fatal(err)
	}
	r.isSealed(t, "the payload of a compressed request", "calls", signaled(t, exchange{call: call, rig: r})[0], text(strings.Repeat("CANARY", 500)))
}
