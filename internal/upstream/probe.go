package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Probe waits until each upstream with a fixed address has answered GetSystemInfo.
func Probe(ctx context.Context, configs []Config) error {
	u := NewRouter(configs, Options{})
	defer u.Close()
	fixed, err := u.fixed()
	if err != nil {
		return err
	}
	for _, conns := range fixed {
		if err := conns.probe(ctx); err != nil {
			return fmt.Errorf("upstream %s does not answer: %w; start the Temporal server, or correct the address or its TLS settings", conns.config.Address, err)
		}
	}
	return nil
}

func (c *Pool) probe(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "client-name", "temporal-seal", "client-version", "1.0.0")
	_, err := workflowservice.NewWorkflowServiceClient(c).GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest), grpc.WaitForReady(true))
	switch st := status.Convert(err); st.Code() {
	case codes.OK, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return nil // it is there; whom it lets in, the callers' own credentials decide
	case codes.DeadlineExceeded:
		return errors.New(lastConnectionError(st.Message()))
	default:
		return errors.New(st.Message())
	}
}

// lastConnectionError cuts gRPC's account of a connection that never came about down to its cause.
func lastConnectionError(text string) string {
	const mark = "latest balancer error: "
	if i := strings.LastIndex(text, mark); i >= 0 {
		text = text[i+len(mark):]
	}
	if i := strings.LastIndex(text, "connection error: desc = "); i >= 0 {
		text = text[i+len("connection error: desc = "):]
	}
	return strings.Trim(text, `"`)
}
