package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/fault"
)

// This file chooses the status code for every error of the other packages. Where a step refuses a call
// itself, the refusal has its code there; the table holds for all of them. SDKs decide by the code what to do
// next. Those on the shared Rust core are Python, TypeScript, .NET and Ruby.
//
//	code               stands for                                    Go       Rust core               Java
//	Unavailable        what may pass by itself: keys, JWKS or        retries  retries                 retries
//	                   policies that do not answer, records that
//	                   cannot be kept, shutting down
//	ResourceExhausted  a limit, of calls, bytes or the size of a     retries, with a longer pause, all of them
//	                   request (in gRPC's own words, which end a
//	                   workflow task that is too large for good)
//	Internal           a fault of the proxy, an upstream whose       final    retries                 final
//	                   answer cannot be read, or a call without
//	                   one whole request message (read.go)
//	InvalidArgument    a malformed or too large message, or one      ends a   ends a worker whose     final
//	                   with an unknown field that might hold a       worker   polls get it for 60 s
//	                   payload (rewrite/unknown.go)
//	PermissionDenied   a policy's deny; namespaces and services out  final    ends a worker whose     final
//	                   of the caller's reach; no upstream                     polls get it for 60 s
//	Unauthenticated    no credential, or one that does not hold      final    the same                final
//	Unimplemented      a method or service that is not forwarded     final    final                   final
//	NotFound           a task that was failed in its worker's place  final    final                   final
//	FailedPrecondition an envelope whose key, grant or release the   final    final                   not known
//	                   proxy does not have; a change of its config
//	                   opens it
//	DataLoss           an envelope that was changed, that the key    final    retries                 not known
//	                   service rejects, or whose data key is lost,
//	                   erased or expired
//	Canceled           the caller left
//	DeadlineExceeded   the caller's time is over, or its request     final    not known               not known
//	                   does not arrive
//
// So a poll gets InvalidArgument, PermissionDenied or Unauthenticated only where its worker can never
// succeed.

// from starts each message, so that a caller sees that it comes from the proxy and not from the Temporal
// server.
const from = "temporal-seal: "

// refusal is an answer of the proxy's own with a text made for the caller.
type refusal struct {
	code codes.Code
	text string
	// expected: it follows from what somebody decided, and needs no attention.
	expected bool
}

func (r *refusal) Error() string { return r.text }

// newRefusal returns a refusal with a text that says what the caller can do about it.
func newRefusal(code codes.Code, format string, values ...any) error {
	return &refusal{code: code, text: fmt.Sprintf(format, values...)}
}

// answerFor maps an error of the proxy's own to what the caller gets. Its text contains no payload, since
// none of the errors does. It names keys by their names alone: where they are kept stays in the log.
func answerFor(err error) *status.Status {
	if err == nil {
		return nil
	}
	return status.New(codeOf(err), from+cut(crypto.ForCaller(err)))
}

// codeOf chooses the status code of an error of the proxy's own. The order of the cases matters where errors
// wrap others.
func codeOf(err error) codes.Code {
	var refused *refusal
	var unknown *auth.Refusal
	var rewriting *rewrite.Error
	switch {
	case crypto.KindOf(err) == crypto.KindUnavailable:
		// Before the context's errors: a call to the key service has a time limit of its own, which is not
		// the caller's.
		return codes.Unavailable
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.As(err, &refused):
		return refused.code
	case errors.As(err, &unknown):
		return codeOfCaller(unknown.Kind)
	case errors.Is(err, upstream.ErrNoUpstream):
		return codes.PermissionDenied
	case errors.Is(err, upstream.ErrTooMany):
		return codes.ResourceExhausted
	case errors.Is(err, upstream.ErrClosed), errors.Is(err, audit.ErrUnrecorded):
		return codes.Unavailable
	case errors.As(err, &rewriting):
		return codeOfRewriting(rewriting)
	case crypto.KindOf(err) != crypto.KindUnknown:
		// Keys that are not at hand before a poll: nothing was forwarded, and a worker must not die of it.
		return codes.Unavailable
	}
	return codes.Internal
}

func codeOfCaller(k auth.Kind) codes.Code {
	switch k {
	case auth.Forbidden:
		return codes.PermissionDenied
	case auth.Unavailable:
		return codes.Unavailable
	}
	return codes.Unauthenticated
}

// codeOfOpening distinguishes what is lost from what opens again once somebody gives the proxy the key.
func codeOfOpening(k crypto.Kind) codes.Code {
	switch k {
	case crypto.KindUnavailable:
		return codes.Unavailable
	case crypto.KindRevoked, crypto.KindNewer, crypto.KindForeign, crypto.KindNotConfigured:
		return codes.FailedPrecondition
	}
	return codes.DataLoss
}

func codeOfRewriting(e *rewrite.Error) codes.Code {
	switch e.Kind {
	case rewrite.KindMalformed, rewrite.KindUnknownField, rewrite.KindTooLarge:
		return codes.InvalidArgument
	case rewrite.KindDenied:
		return codes.PermissionDenied
	case rewrite.KindPolicy, rewrite.KindSealing:
		return codes.Unavailable
	case rewrite.KindMemory:
		return codes.ResourceExhausted
	case rewrite.KindOpening:
		return codeOfOpening(crypto.KindOf(e))
	}
	return codes.Internal
}

// unknownMethod refuses a method of a rewritten service that neither this build nor the upstream describes.
func unknownMethod(fullMethod string) error {
	return newRefusal(codes.Unimplemented, "%s is not known to this version of the proxy. It might carry payloads, "+
		"so it is not forwarded: upgrade the proxy", fullMethod)
}

// forbiddenService refuses a service that the config does not name.
func forbiddenService(service string) error {
	return newRefusal(codes.Unimplemented, "the service %s is not forwarded: name it in `services` of the proxy's config "+
		"if it carries no payloads", service)
}

// ofAnswer maps the error of an answer that could not be opened. What would be the caller's fault in a
// request is the upstream's in an answer.
func ofAnswer(err error) error {
	var rewriting *rewrite.Error
	if errors.Is(err, rewrite.ErrTooMuch) {
		return tooLong(rewrite.MaxOpened+1, rewrite.MaxOpened) // SDKs know these words
	}
	if errors.As(err, &rewriting) && (rewriting.Kind == rewrite.KindMalformed || rewriting.Kind == rewrite.KindUnknownField) {
		return newRefusal(codes.Internal, "the upstream's answer cannot be read: %v", err)
	}
	return err
}

// upstreamError is an error that the upstream answered with, or the way there.
type upstreamError struct{ status *status.Status }

func (e *upstreamError) Error() string { return e.status.Message() }

// refuse counts a call that failed, and makes of the error what the caller gets.
func (c *call) refuse(err error) error {
	var st *status.Status
	switch e := err.(type) {
	case *upstreamError:
		st = e.status
		upstreamSpoke(c.ctx)
	case interface{ GRPCStatus() *status.Status }: // of the steps admit, read and forward
		if st = e.GRPCStatus(); st.Code() != codes.ResourceExhausted { // admission logs those, once a minute
			refusalOf(c).log(c.ctx, c.server, st, err)
		}
	default:
		st = answerFor(err)
		refusalOf(c).log(c.ctx, c.server, st, err)
	}
	noteRefusal(c, st.Code(), err)
	c.end(st.Code())
	return st.Err()
}

// noteRefusal notes a refusal of the proxy's own for the admin page. Callers who leave are none, nor is what the upstream answers.
func noteRefusal(c *call, code codes.Code, err error) {
	if _, upstreams := err.(*upstreamError); upstreams || code == codes.Canceled || code == codes.DeadlineExceeded {
		return
	}
	namespace := ""
	if c.session != nil {
		namespace = c.session.Namespace()
	}
	c.server.metrics.Traffic.Refusals.Add(namespace, c.method.rewrite.Name(), codeName(code), reason(err), time.Now())
}

// refusalOf is what is known of a call by now.
func refusalOf(c *call) *refusedCall {
	return &refusedCall{method: c.method.full, listener: c.listener, caller: callerOf(c.id), session: c.session}
}

// callerOf is nil where a caller has proved no identity.
func callerOf(id *auth.Identity) *policy.Caller {
	if id == nil {
		return nil
	}
	return id.Caller
}

// panicked answers a call that a fault in the proxy ended. It logs the stack, which holds no values: one line a
// minute for each method, since a caller may repeat what it is.
func (s *Server) panicked(full string, value any) error {
	s.metrics.panics.Inc()
	method := cut(strings.TrimPrefix(full, "/"))
	key := ""
	if s.methods[full] != nil { // others may be a caller's invention
		key = method
	}
	if leftOut, ok := s.metrics.panicLines.Next(key); ok {
		s.log.Error("a fault in the proxy ended a call; please report it", withLeftOut([]any{
			"method", method, "panic", fault.Describe(value), "stack", string(debug.Stack())}, leftOut)...)
	}
	return status.Error(codes.Internal, from+"a fault in the proxy ended this call; its log has the stack trace")
}

// maxText bounds what an answer or a log line quotes, in bytes: names in it may be a caller's, and as long as
// a request.
const maxText = 1 << 10

// cut shortens a text that is too long.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + fmt.Sprintf("... (%d bytes)", len(text))
}

// refusedCall is what is known of a call that the proxy refuses.
type refusedCall struct {
	method   string // its full name, which may be the caller's invention
	listener *listener
	caller   *policy.Caller   // nil: not known
	session  *rewrite.Session // nil: the call did not get so far
}

// fields are those of the log line about the call.
func (r *refusedCall) fields(ctx context.Context) (fields []any) {
	if r.session != nil {
		fields = r.session.LogFields(ctx)
	} else {
		fields = []any{"method", cut(strings.TrimPrefix(r.method, "/")), "listener", r.listener.Name}
		if r.caller != nil {
			fields = append(fields, "caller", cut(r.caller.String()))
		}
		if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
			fields = append(fields, "trace_id", span.TraceID().String())
		}
	}
	return append(fields, "address", r.address(ctx))
}

func (r *refusedCall) address(ctx context.Context) string {
	if conn := connectionOf(ctx); conn != nil {
		return conn.host
	}
	return ""
}

// key distinguishes repetitions of the line: by the caller, the method, the namespace and why. Callers without an identity
// are distinguished by their address, and methods that do not exist not at all.
func (r *refusedCall) key(ctx context.Context, s *Server, why string) string {
	namespace, method, caller := "", "", r.address(ctx)
	if s.methods[r.method] != nil {
		method = r.method
	}
	if r.session != nil {
		namespace = cut(r.session.Namespace()) // it may be as long as a request
	}
	if r.caller != nil && r.caller.Subject != "" {
		caller = r.caller.String()
	}
	return strings.Join([]string{caller, method, namespace, why}, "\x00")
}

// log logs the call, with more of the reason than the caller gets: one line a minute for
// each caller, method, namespace and reason.
func (r *refusedCall) log(ctx context.Context, s *Server, st *status.Status, err error) {
	level := slog.LevelWarn
	if st.Code() == codes.Canceled || st.Code() == codes.DeadlineExceeded {
		level = slog.LevelDebug
	} else if r, ok := errors.AsType[*refusal](err); ok && r.expected {
		level = slog.LevelInfo
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	why, code := reason(err), codeName(st.Code())
	leftOut, ok := r.listener.refusals.Next(r.key(ctx, s, code+why))
	if !ok {
		return
	}
	fields := append(r.fields(ctx), "code", code)
	if why != rewrite.ReasonOther {
		fields = append(fields, "reason", why)
	}
	s.log.Log(ctx, level, "call refused", withLeftOut(append(fields, "error", cut(err.Error())), leftOut)...)
}
