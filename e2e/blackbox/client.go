package blackbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// WorkflowService and OperatorService are the services that the proxy rewrites, as prefixes of a full method name.
const (
	WorkflowService = "/temporal.api.workflowservice.v1.WorkflowService/"
	OperatorService = "/temporal.api.operatorservice.v1.OperatorService/"
)

// Client sends raw requests to a proxy.
type Client struct {
	conn *grpc.ClientConn
	// Token is sent as `authorization: Bearer TOKEN` with each call; empty: none.
	Token string
}

// Request is one call of a client.
type Request struct {
	Call     string // value of CallHeader; empty: none
	Method   string // full name, or the name of a method of WorkflowService
	Body     []byte
	Metadata metadata.MD   // further headers
	Timeout  time.Duration // 0: 10 s
	Token    string        // instead of the client's
}

// Response is what the client received.
type Response struct {
	Body    []byte
	Status  *spb.Status // nil: OK
	Header  metadata.MD
	Trailer metadata.MD
}

// Code is the name of the status code, such as "OK" or "PermissionDenied".
func (r Response) Code() string { return status.FromProto(r.Status).Code().String() }

// Dial connects to a proxy without TLS.
func Dial(address string) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return &Client{conn: conn}, nil
}

// Close closes the connection.
func (c *Client) Close() { _ = c.conn.Close() }

// Do makes the call and waits for its answer.
func (c *Client) Do(ctx context.Context, q Request) Response {
	timeout := q.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	md := q.Metadata.Copy()
	if md == nil {
		md = metadata.MD{}
	}
	if q.Call != "" {
		md.Set(CallHeader, q.Call)
	}
	token := q.Token
	if token == "" {
		token = c.Token
	}
	if token != "" {
		md.Set("authorization", "Bearer "+token)
	}
	method := q.Method
	if !strings.HasPrefix(method, "/") {
		method = WorkflowService + method
	}
	var r Response
	err := c.conn.Invoke(metadata.NewOutgoingContext(ctx, md), method, &q.Body, &r.Body, grpc.Header(&r.Header), grpc.Trailer(&r.Trailer))
	if err != nil {
		r.Status = status.Convert(err).Proto()
	}
	return r
}

func methodName(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }
