package blackbox

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// Script is a frontend whose answers are set call by call. Methods without an answer of their own get the empty message,
// which is what a frontend answers to most requests; GetSystemInfo and GetClusterInfo name a server version.
type Script struct {
	*Frontend
	next atomic.Int64

	mu      sync.Mutex
	answers map[string]map[string]Answer // by call and method name
}

// StartScript starts a frontend on a free loopback port.
func StartScript() (*Script, error) {
	s := &Script{answers: map[string]map[string]Answer{}}
	var err error
	s.Frontend, err = StartFrontend(s.answerOf)
	return s, err
}

// NewCall returns an id that no call has had yet.
func (s *Script) NewCall() string { return "call-" + strconv.FormatInt(s.next.Add(1), 10) }

// Set makes the frontend answer a method within one call. A method is named without its service.
func (s *Script) Set(call, method string, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers[call] == nil {
		s.answers[call] = map[string]Answer{}
	}
	s.answers[call][method] = a
}

// Forget drops the answers of a call.
func (s *Script) Forget(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answers, call)
}

func (s *Script) answerOf(r Received) Answer {
	s.mu.Lock()
	a, ok := s.answers[r.Call][r.Name()]
	s.mu.Unlock()
	if ok {
		return a
	}
	switch r.Name() {
	case "GetSystemInfo":
		return Message(&workflowservice.GetSystemInfoResponse{ServerVersion: "1.29.0"})
	case "GetClusterInfo":
		return Message(&workflowservice.GetClusterInfoResponse{ServerVersion: "1.29.0"})
	case "ServerReflectionInfo":
		return Answer{Status: &spb.Status{Code: int32(codes.Unimplemented), Message: "no reflection"}}
	}
	return Answer{}
}

// Message is the answer with this message. It panics if the message cannot be encoded, which is a fault of the test.
func Message(m proto.Message) Answer { return Answer{Body: Marshal(m)} }

// Marshal encodes a message, always to the same bytes.
func Marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("blackbox: %T cannot be encoded: %v", m, err))
	}
	return b
}

// Seal has the proxy seal payloads as the input of a signal, and returns what it forwards.
func (s *Script) Seal(
	ctx context.Context, c *Client, namespace, token string, clear []*commonpb.Payload,
) ([]*commonpb.Payload, error) {
	call := s.NewCall()
	answer := c.Do(ctx, Request{Call: call, Method: "SignalWorkflowExecution", Token: token,
		Body: Marshal(&workflowservice.SignalWorkflowExecutionRequest{
			Namespace: namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: "blackbox"},
			SignalName: "seal", Input: &commonpb.Payloads{Payloads: clear}})})
	if answer.Status != nil {
		return nil, fmt.Errorf("seal %d payloads in %s: %s: %s", len(clear), namespace, answer.Code(), answer.Status.GetMessage())
	}
	for _, r := range s.Of(call) {
		if r.Name() != "SignalWorkflowExecution" {
			continue
		}
		q := new(workflowservice.SignalWorkflowExecutionRequest)
		if err := proto.Unmarshal(r.Body, q); err != nil {
			return nil, fmt.Errorf("seal %d payloads in %s: read what was forwarded: %w", len(clear), namespace, err)
		}
		return q.GetInput().GetPayloads(), nil
	}
	return nil, fmt.Errorf("seal %d payloads in %s: nothing was forwarded", len(clear), namespace)
}

// Open has the proxy open payloads as the result of a query, and returns what its caller gets.
func (s *Script) Open(
	ctx context.Context, c *Client, namespace, token string, sealed []*commonpb.Payload,
) ([]*commonpb.Payload, error) {
	call := s.NewCall()
	s.Set(call, "QueryWorkflow", Message(&workflowservice.QueryWorkflowResponse{
		QueryResult: &commonpb.Payloads{Payloads: sealed}}))
	defer s.Forget(call)
	answer := c.Do(ctx, Request{Call: call, Method: "QueryWorkflow", Token: token,
		Body: Marshal(&workflowservice.QueryWorkflowRequest{
			Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: "blackbox"},
			Query: &querypb.WorkflowQuery{QueryType: "open"}})})
	if answer.Status != nil {
		return nil, fmt.Errorf("open %d payloads in %s: %s: %s", len(sealed), namespace, answer.Code(), answer.Status.GetMessage())
	}
	r := new(workflowservice.QueryWorkflowResponse)
	if err := proto.Unmarshal(answer.Body, r); err != nil {
		return nil, fmt.Errorf("open %d payloads in %s: %w", len(sealed), namespace, err)
	}
	return r.GetQueryResult().GetPayloads(), nil
}
