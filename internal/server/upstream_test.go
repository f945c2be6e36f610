package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

func TestUpstreamsByNamespace(t *testing.T) {
	cloud, ops := &frontend{}, &frontend{}
	startFrontend(t, cloud)
	startFrontend(t, ops)
	_, port, _ := strings.Cut(cloud.address, ":")
	p := startProxy(t, cloud, func(o *Options) {
		o.Upstreams = []upstream.Config{
			{Namespaces: []string{"local*", "*.evil", "*:1"}, Address: "{namespace}:" + port}, // stands for a DNS name per namespace
			{Namespaces: []string{}, Address: ops.address},
		}
	})
	c := p.client(t)
	ctx := testContext(t)
	if got := describeIn(ctx, c, "localhost"); got != codes.OK || len(cloud.calls()) != 1 {
		t.Errorf("templated address: got %v, calls %v", got, cloud.calls())
	}
	if _, err := c.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); err != nil || len(ops.calls()) != 1 {
		t.Errorf("no namespace: got %v, calls %v", err, ops.calls())
	}
	if got := describeIn(ctx, c, "clinic"); got != codes.PermissionDenied {
		t.Errorf("a namespace that no upstream serves: got %v", got)
	}
	for _, evil := range []string{"local/x", "local:1", "localhost@x", "local?", "local#", "local%2e", "local host", "local\\x", "local[::1]", "x.evil", "..evil", "127.0.0.1:1"} {
		if got := describeIn(ctx, c, evil); got != codes.PermissionDenied {
			t.Errorf("namespace %q: got %v, want it kept out of the address", evil, got)
		}
	}
}

// SDKs ping every 30 s, without calls too. With gRPC's defaults the third ping is answered by closing the connection.
func TestPingsDoNotCloseIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 45 s: a client cannot ping more often than every 10 s")
	}
	t.Parallel()
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f)
	c := p.client(t, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}))
	if got := describeIn(testContext(t), c, "clinic"); got != codes.OK {
		t.Fatal(got)
	}
	before := p.Connections()
	time.Sleep(45 * time.Second)
	if now := p.Connections(); before != 1 || now != 1 {
		t.Errorf("%d connections before the pings, %d after", before, now)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if got := describeIn(ctx, c, "clinic"); got != codes.OK {
		t.Error(got)
	}
}

func TestAnswerFor(t *testing.T) {
	for err, want := range map[error]codes.Code{
		context.Canceled: codes.Canceled, context.DeadlineExceeded: codes.DeadlineExceeded, upstream.ErrNoUpstream: codes.PermissionDenied,
		upstream.ErrTooMany: codes.ResourceExhausted, upstream.ErrClosed: codes.Unavailable, newRefusal(codes.Unauthenticated, "who?"): codes.Unauthenticated,
	} {
		st := answerFor(err)
		if st.Code() != want || !strings.HasPrefix(st.Message(), from) {
			t.Errorf("%v: got %v", err, st)
		}
	}
	if answerFor(nil) != nil || status.Code(answerFor(nil).Err()) != codes.OK {
		t.Error("no error is no answer")
	}
}
