package server

import (
	"context"
	"strings"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/tasks"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// route finds the upstream of the namespace, and makes the metadata for it. What is refused here was not
// forwarded.
func (c *call) route() (err error) {
	if publicMethods[c.method.full] {
		c.upstream, err = c.server.upstreams.RoutePublic(hintedNamespace(c.headers, c.id))
	} else {
		c.upstream, err = c.server.upstreams.Route(c.session.Namespace())
	}
	if err != nil {
		return err
	}
	if c.server.audit != nil {
		if err := recordable(c.server.audit, c.method.rewrite); err != nil {
			return err
		}
	}
	if c.span.IsRecording() {
		describeSpan(c.span, c.session)
	}
	c.out = outgoing(c.ctx, c.headers, c.listener.Credential, c.upstream.Config(), c.session.Namespace())
	if c.method.rewrite.IsPoll() || c.method.rewrite.RequestTouched() {
		c.confirm()
	}
	return nil
}

// hintedNamespace returns the namespace for which newer SDKs ask about the server, if the caller reaches it; else "".
func hintedNamespace(headers metadata.MD, id *auth.Identity) string {
	names := headers[namespaceHeader]
	if len(names) != 1 || len(names[0]) > auth.MaxNamespace || !id.Reaches(names[0]) {
		return ""
	}
	return names[0]
}

// confirm asks the upstream whether the call's namespace exists, unless that is known.
func (c *call) confirm() {
	if namespace := c.session.Namespace(); namespace != "" && !c.server.keys.Confirmed(namespace) {
		c.server.confirmations.Confirm(c.ctx, c.out, c.upstream, namespace)
	}
}

// awaitKeys has a poll wait until the result of its task could be sealed, or ends it without a task, as it does where a
// drain leaves too little time. For a worker that shuts down it ends the polls that wait.
func (c *call) awaitKeys() error {
	tasks := c.server.tasks
	if c.method.full == workflowservice.WorkflowService_ShutdownWorker_FullMethodName {
		tasks.EndPolls(c.in.Bytes())
	}
	if !c.method.rewrite.IsPoll() {
		return nil
	}
	ready, err := tasks.AwaitKeys(c.ctx, c.out, c.taskCall())
	if err != nil {
		return err
	}
	if !ready {
		return c.endPoll()
	}
	if _, forward := c.server.drain.poll(); !forward {
		if err := backoff.Sleep(c.ctx, latePoll); err != nil {
			return err
		}
		return c.endPoll()
	}
	tasks.FindPaused(c.out, c.taskCall())
	return nil
}

// taskCall is what tasks needs of the call.
func (c *call) taskCall() tasks.Call {
	return tasks.Call{
		Method: c.method.rewrite, Caller: c.id.Caller, Request: c.request, Session: c.session, Upstream: c.upstream,
		Credential: c.listener.Credential, Reach: c.upstream.Reach}
}

// endPoll answers a poll that ends without a task by the proxy's decision.
func (c *call) endPoll() error {
	answer, err := c.server.tasks.EmptyPoll(c.out, c.taskCall())
	if err != nil {
		return err
	}
	c.answer = frame.New(mem.SliceBuffer(answer))
	return errAnswered
}

// hopHeaders belong to one connection, or are made anew by gRPC on the next. Everything else is forwarded as
// it came.
var hopHeaders = []string{":authority", "content-type", "user-agent", "grpc-accept-encoding", "grpc-encoding",
	"grpc-timeout", "te"}

// serverHeaders are those by which the parts of a Temporal server know each other. A frontend takes them from anybody, and gives
// an operator's calls priority over all others: callers don't send them.
var serverHeaders = []string{"caller-type", "caller-name", "call-initiation", "temporal-principal-type", "temporal-principal-name"}

const namespaceHeader = "temporal-namespace"

// outgoing turns what the caller sent into what the upstream gets.
func outgoing(
	ctx context.Context, incoming metadata.MD, credential string, c *upstream.Config, namespace string,
) context.Context {
	for _, h := range hopHeaders {
		delete(incoming, h)
	}
	for _, h := range serverHeaders {
		delete(incoming, h)
	}
	if credential != "" && !c.PassCredential {
		delete(incoming, credential) // it was meant for the proxy
	}
	if c.APIKey != nil {
		delete(incoming, "authorization")
		delete(incoming, "authorization-extras")
	}
	if len(incoming[namespaceHeader]) > 0 || c.APIKey != nil {
		// Temporal Cloud routes API keys by it, so it names the namespace that was checked, whatever the
		// caller put there.
		delete(incoming, namespaceHeader)
		if namespace != "" {
			// Headers are written after this returns, the request's bytes may be gone by then.
			incoming[namespaceHeader] = []string{strings.Clone(namespace)}
		}
	}
	return metadata.NewOutgoingContext(ctx, incoming)
}
