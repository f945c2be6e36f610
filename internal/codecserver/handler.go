package codecserver

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/fault"
)

// The routes are what a path may end with. What stands before is the user's choice, to tell codec servers
// apart.
const (
	routeEncode   = "/encode"
	routeDecode   = "/decode"
	routeDownload = "/download"
	routeOther    = "other" // the metric label of every other path
)

// routeOf returns the route of a path, which is also its label in metrics and spans.
func routeOf(path string) string {
	for _, r := range []string{routeEncode, routeDecode, routeDownload} {
		if strings.HasSuffix(path, r) {
			return r
		}
	}
	return routeOther
}

// exchange is one request and its answer.
type exchange struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	route  string
	span   trace.Span
	take   func(n int64) error // counts n bytes more
	memory rewrite.Memory      // counts what rewriting takes
	leave  func()              // nil: not counted in
	// What is known of the caller, for the log.
	caller    *policy.Caller
	namespace string
}

// ServeHTTP answers one request. A panic ends this request alone.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	e := &exchange{server: s, w: w, r: r, route: routeOf(r.URL.Path)}
	ctx = e.startSpan(ctx)
	status := http.StatusInternalServerError
	defer func() {
		if p := recover(); p != nil {
			e.logFault(p)
			status = writeError(w, refuse(http.StatusInternalServerError, "a fault in the proxy ended this call; its log has the stack trace"))
		}
		if e.leave != nil {
			e.leave()
		}
		e.endSpan(status)
		s.metrics.requests.WithLabelValues(e.route, strconv.Itoa(status)).Observe(time.Since(start).Seconds())
	}()
	// Before it answers, net/http waits for the rest of a body that nobody reads.
	_ = http.NewResponseController(w).SetReadDeadline(start.Add(s.bodyTime))
	text, err := e.answer(ctx)
	status = e.send(ctx, text, err)
}

// What is accepted: POST of application/json to a path that ends in /encode or /decode, from no web page or an allowed
// one, with one X-Namespace header, by a caller whom the listener identifies and who reaches that namespace. Whether a payload is
// opened for them is the policy's decision, by the rules for payloads without a message. A decode that opened, or kept,
// something sealed is on record where `audit` is set; one that is refused or fails is a line in the log.

// answer checks the request as far as that needs no look at the payloads, and returns the text of the answer.
// The answer to a preflight has none.
func (e *exchange) answer(ctx context.Context) ([]byte, error) {
	r, h := e.r, e.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case !e.server.allowOrigin(h, r):
		return nil, refuse(http.StatusForbidden, "pages from this origin may not use this codec server: add it to `codec_server.allowed_origins`")
	case e.route == routeOther:
		return nil, refuse(http.StatusNotFound, "this is a codec server: POST to a path that ends in /encode or /decode")
	case r.Method == http.MethodOptions:
		preflight(h, r)
		return nil, nil
	case r.Method != http.MethodPost:
		return nil, refuse(http.StatusMethodNotAllowed, "a codec server accepts POST alone")
	}
	// A page can send other types without a preflight, forms among them.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, refuse(http.StatusUnsupportedMediaType, "the body has to be application/json")
	}
	id, namespace, err := e.authenticate()
	if id != nil {
		e.caller, e.namespace = id.Caller, namespace
	}
	switch {
	case err != nil:
		return nil, err
	case e.route == routeDownload:
		// 404 and not 501, after which the Web UI would ask twice again.
		return nil, refuse(http.StatusNotFound, "this codec server keeps no payloads in an external storage, so there is nothing to download")
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr) // net/http wrote it
	take, memory, leave, err := e.server.options.Enter(id.Caller, host)
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "%v", err)
	}
	e.take, e.memory, e.leave = take, memory, leave
	return e.rewriteBody(ctx, id, namespace)
}

// unnamedNamespace is what an empty X-Namespace means: Temporal's command line up to 1.5 sends that where it is called
// without --namespace.
const unnamedNamespace = "default"

// authenticate finds out who calls, and checks that they reach the namespace.
func (e *exchange) authenticate() (*auth.Identity, string, error) {
	headers := make(map[string][]string, len(e.r.Header))
	for name, values := range e.r.Header {
		headers[strings.ToLower(name)] = values
	}
	id, err := e.server.options.Identify(auth.Credentials{Headers: headers, TLS: e.r.TLS, Wait: true})
	if err != nil {
		return nil, "", err
	}
	namespaces := headers["x-namespace"]
	if len(namespaces) != 1 {
		return nil, "", refuse(http.StatusBadRequest, "the header X-Namespace has to name the namespace of the payloads: the Web UI and the command line send it by themselves")
	}
	namespace := cmp.Or(namespaces[0], unnamedNamespace)
	if n := len(namespace); n > auth.MaxNamespace {
		return nil, "", refuse(http.StatusBadRequest, "the name of the namespace has %d bytes, and %d are the most", n, auth.MaxNamespace)
	}
	return id, namespace, id.Authorize(namespace)
}

// rewriteBody seals or opens the payloads in the body, and returns the text of the answer.
func (e *exchange) rewriteBody(ctx context.Context, id *auth.Identity, namespace string) ([]byte, error) {
	body, err := e.readBody(ctx)
	defer clear(body)
	if err != nil {
		return nil, err
	}
	select {
	case e.server.running <- struct{}{}:
		defer func() { <-e.server.running }()
	case <-ctx.Done():
		return nil, refuse(http.StatusServiceUnavailable, "too many requests at once; try again")
	}
	rpc := rewrite.RPCEncode
	if e.route == routeDecode {
		rpc = rewrite.RPCDecode
	}
	list, err := readPayloads(body, rpc)
	if err != nil {
		return nil, err
	}
	session := e.server.options.Rewriter.BeginCodec(rpc, namespace, id.Caller)
	session.CountIn(e.memory)
	payloads, err := e.rewrite(ctx, session, list.Payloads)
	if err == nil {
		err = e.record(ctx, session, id)
	}
	e.count(session, id, err != nil)
	session.Done() // not deferred: what a panic left behind is not used again
	if err != nil {
		return nil, err
	}
	return writePayloads(payloads)
}

// count counts what became of the payloads.
func (e *exchange) count(session *rewrite.Session, id *auth.Identity, failed bool) {
	for _, stats := range []*rewrite.Stats{session.RequestStats(), session.ResponseStats()} {
		if failed {
			stats.Outcomes.Withhold()
		}
		e.server.options.Count(session.Namespace(), "", stats.Outcomes, slices.Contains(id.Namespaces, session.Namespace()))
	}
}

// readBody reads the body, up to the limit. It returns what it has read beside an error too, so that the caller can
// clear it. Memory is counted before it is used.
func (e *exchange) readBody(ctx context.Context) (body []byte, err error) {
	limit, control, start := e.server.options.RequestBytes, http.NewResponseController(e.w), time.Now()
	last, _ := ctx.Deadline()
	e.w.Header().Set("Connection", "close") // until all of the body is read
	elements := 0
	for in := io.LimitReader(e.r.Body, limit+1); ; {
		if len(body) == cap(body) {
			more := min(max(int64(len(body)), bodyChunk), limit+1)
			if err := e.take(bodyCost * more); err != nil {
				return body, refuse(http.StatusServiceUnavailable, "%v", err)
			}
			grown := append(make([]byte, 0, int64(len(body))+more), body...)
			clear(body)
			body = grown
		}
		late := start.Add(e.server.bodyTime + time.Duration(len(body))*time.Second/slowestRate)
		if late.After(last) {
			late = last
		}
		_ = control.SetReadDeadline(late) // every connection has one
		n, err := in.Read(body[len(body):cap(body)])
		elements += countElements(body[len(body) : len(body)+n])
		body = body[:len(body)+n]
		switch {
		case elements > maxElements: // the rest is not worth reading
			return body, refuse(http.StatusRequestEntityTooLarge, "the body has more than %d elements: send the payloads in several requests", maxElements)
		case int64(len(body)) > limit:
			return body, refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes: send the payloads in several requests", limit)
		case err == io.EOF:
			if err := e.take(int64(elements) * elementCost); err != nil {
				return body, refuse(http.StatusServiceUnavailable, "%v", err)
			}
			e.w.Header().Del("Connection")
			_ = control.SetReadDeadline(time.Time{}) // what follows is bounded by answerTime
			return body, nil
		case err != nil:
			return body, refuse(http.StatusBadRequest, "the body did not arrive whole")
		}
	}
}

// bodyChunk is what the first bytes of a body are read into.
const bodyChunk = 32 << 10

// countElements counts the objects and members in a part of a body, which take memory beside its bytes. Most of the commas and
// braces that are no element stand in texts, which are base64 and have none.
func countElements(part []byte) int {
	return bytes.Count(part, []byte("{")) + bytes.Count(part, []byte(","))
}

// countAnswer counts what the answer takes for n bytes that it has more than the request: decoded and as base64.
func (e *exchange) countAnswer(n int64) error {
	if err := e.take(bodyCost * n); err != nil {
		return refuse(http.StatusServiceUnavailable, "%v", err)
	}
	return nil
}

// rewrite seals or opens a list of payloads as the policy says, and counts them.
func (e *exchange) rewrite(
	ctx context.Context, session *rewrite.Session, list []*commonpb.Payload,
) ([]*commonpb.Payload, error) {
	direction, stats, run := policy.Request, session.RequestStats(), session.Request
	if e.route == routeDecode {
		direction, stats, run = policy.Response, session.ResponseStats(), session.Response
	}
	e.describeSession(session)
	start := time.Now()
	payloads, err := rewriteList(ctx, func(ctx context.Context, in []byte) ([]byte, error) {
		out, err := run(ctx, in)
		if more := len(out) - len(in); err == nil && more > 0 {
			err = e.countAnswer(int64(more))
		}
		return out, err
	}, list)
	if err != nil {
		e.server.options.Failed(direction, err)
		e.server.options.Unopened(ctx, session)
		return nil, err
	}
	if e.route == routeDecode {
		openTexts(ctx, session, list, payloads)
	}
	e.server.options.Unopened(ctx, session)
	e.server.options.Rewritten(direction, stats, time.Since(start), e.span)
	e.describeStats(direction, stats)
	if stats.Later > 0 && stats.Payloads == 0 {
		return nil, refuse(http.StatusServiceUnavailable, "the key service does not answer, so nothing can be opened now; see the proxy's log")
	}
	return payloads, nil
}

// record writes an audit record of what was opened. After an error the answer must not leave.
func (e *exchange) record(ctx context.Context, session *rewrite.Session, id *auth.Identity) error {
	r := audit.Of(ctx, session, id.Caller)
	if len(r.Payloads) == 0 {
		return nil
	}
	r.RPC, r.Code = "codec-server/decode", "OK"
	if err := e.server.options.Audit.Write(ctx, &r); err != nil {
		return refuse(http.StatusServiceUnavailable, "%v", err)
	}
	return nil
}

// send writes the answer and returns its status. A caller that has left needs no answer, so write errors are
// ignored.
func (e *exchange) send(ctx context.Context, text []byte, err error) (status int) {
	switch {
	case err != nil:
		status = writeError(e.w, err)
		e.logRefusal(ctx, status, err)
	case text == nil:
		status = http.StatusNoContent
		e.w.WriteHeader(status)
	default:
		defer clear(text)
		status = http.StatusOK
		e.w.Header().Set("Content-Type", "application/json")
		e.w.WriteHeader(status)
		_, _ = e.w.Write(text)
	}
	return status
}

// method names the route as audit records and metrics of calls do.
func (e *exchange) method() string { return "codec-server/" + strings.TrimPrefix(e.route, "/") }

// logFault counts a panic, and logs it with its stack, which holds no values: one line a minute for each route.
func (e *exchange) logFault(value any) {
	e.server.metrics.panics.Inc()
	leftOut, ok := e.server.faults.Next(e.route)
	if !ok {
		return
	}
	fields := []any{"method", e.method(), "panic", fault.Describe(value), "stack", string(debug.Stack())}
	if leftOut > 0 {
		fields = append(fields, "lines_left_out", leftOut)
	}
	e.server.options.Log.Error("a fault in the proxy ended a call; please report it", fields...)
}

// logRefusal logs a request that was not answered as its caller wished: one line a minute for each caller, route, namespace
// and status.
func (e *exchange) logRefusal(ctx context.Context, status int, err error) {
	address, _, _ := net.SplitHostPort(e.r.RemoteAddr) // net/http wrote it
	caller := ""
	if e.caller != nil {
		caller = e.caller.String()
	}
	leftOut, ok := e.server.refusals.Next(fmt.Sprint(caller, "\x00", address, "\x00", e.route, "\x00", e.namespace, "\x00", status))
	if !ok {
		return
	}
	fields := []any{"method", e.method(), "listener", Name, "address", address}
	if e.caller != nil {
		fields = append(fields, "caller", caller, "namespace", e.namespace)
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		fields = append(fields, "trace_id", span.TraceID().String())
	}
	fields = append(fields, "code", status, "error", err.Error())
	if leftOut > 0 {
		fields = append(fields, "lines_left_out", leftOut)
	}
	e.server.options.Log.Warn("call refused", fields...)
}
