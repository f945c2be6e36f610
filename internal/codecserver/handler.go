package codecserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// routes are what a path may end with. Whatever stands before it is the user's, to tell codec servers apart.
var routes = []string{"/encode", "/decode", "/download"}

// otherRoute is the metric label of every other path.
const otherRoute = "other"

func routeOf(path string) string {
	for _, r := range routes {
		if strings.HasSuffix(path, r) {
			return r
		}
	}
	return otherRoute
}

// exchange is one request on its way through.
type exchange struct {
	*Server
	http.ResponseWriter
	request *http.Request
	route   string
	span    span
}

// ServeHTTP answers one request. A panic ends this request alone.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	e := &exchange{Server: s, ResponseWriter: w, request: r, route: routeOf(r.URL.Path)}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	ctx = e.begin(ctx)
	status := http.StatusInternalServerError
	defer func() {
		if p := recover(); p != nil {
			s.panicked(e.route, p)
			status = writeError(w, refuse(http.StatusInternalServerError, "a fault in the proxy ended this call: its log holds the place"))
		}
		e.end(status)
		s.metrics.observe(e.route, status, time.Since(start))
	}()
	status = e.answer(ctx)
}

// answer does all the checks that need no look at the payloads.
func (e *exchange) answer(ctx context.Context) int {
	r := e.request
	h := e.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if !e.allowOrigin(h, r) {
		return e.fail(refuse(http.StatusForbidden, "pages from this origin may not use this codec server: add it to `codec_server.allowed_origins`"))
	}
	switch {
	case e.route == otherRoute:
		return e.fail(refuse(http.StatusNotFound, "this is a codec server: POST to a path that ends in /encode or /decode"))
	case r.Method == http.MethodOptions:
		preflight(h, r)
		e.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	case r.Method != http.MethodPost:
		return e.fail(refuse(http.StatusMethodNotAllowed, "a codec server is asked by POST"))
	}
	// A page can send other types without asking first, and forms besides.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return e.fail(refuse(http.StatusUnsupportedMediaType, "the body has to be application/json"))
	}
	id, namespace, err := e.admit()
	if err != nil {
		return e.fail(err)
	}
	if e.route == "/download" {
		// 404 and not 501, after which the Web UI would ask twice again.
		return e.fail(refuse(http.StatusNotFound, "this codec server keeps no payloads in an external storage, so there is nothing to download"))
	}
	return e.work(ctx, id, namespace)
}

// admit finds out who calls, and if he reaches the namespace.
func (e *exchange) admit() (*auth.Identity, string, error) {
	r := e.request
	headers := make(map[string][]string, len(r.Header))
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = values
	}
	id, err := e.Identify(auth.Shown{Headers: headers, TLS: r.TLS})
	if err != nil {
		return nil, "", err
	}
	namespaces := headers["x-namespace"]
	if len(namespaces) != 1 || namespaces[0] == "" {
		return nil, "", refuse(http.StatusBadRequest, "the header X-Namespace has to name the namespace of the payloads: the Web UI and the command line send it by themselves")
	}
	return id, namespaces[0], id.Authorise(namespaces[0])
}

// work seals or opens the payloads in the body.
func (e *exchange) work(ctx context.Context, id *auth.Identity, namespace string) int {
	body, err := e.read()
	defer clear(body)
	if err != nil {
		return e.fail(err)
	}
	select {
	case e.atOnce <- struct{}{}:
		defer func() { <-e.atOnce }()
	case <-ctx.Done():
		return e.fail(refuse(http.StatusServiceUnavailable, "too many requests at once; try again"))
	}
	rpc := rewrite.RPCDecode
	if e.route == "/encode" {
		rpc = rewrite.RPCEncode
	}
	list, err := readPayloads(body, rpc)
	if err != nil {
		return e.fail(err)
	}
	payloads, err := e.rewrite(ctx, rpc, id, namespace, list.Payloads)
	if err != nil {
		return e.fail(err)
	}
	text, err := appendPayloads(nil, payloads)
	defer clear(text)
	if err != nil {
		return e.fail(err)
	}
	e.Header().Set("Content-Type", "application/json")
	e.WriteHeader(http.StatusOK)
	_, _ = e.Write(text) // a caller that is gone needs no answer
	return http.StatusOK
}

// read gives the body, if it is not too long.
func (e *exchange) read() ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(e.ResponseWriter, e.request.Body, maxBody))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return body, refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes: send the payloads in several requests", maxBody)
	case err != nil:
		return body, refuse(http.StatusBadRequest, "the body did not arrive whole")
	}
	return body, nil
}

// rewrite seals or opens a list of payloads as the policy says, and counts them.
func (e *exchange) rewrite(ctx context.Context, rpc string, id *auth.Identity, namespace string, list []*commonpb.Payload) ([]*commonpb.Payload, error) {
	c := e.Rewriter.BeginApart(rpc, namespace, id.Caller)
	direction, stats := policy.Request, c.RequestStats()
	if rpc == rewrite.RPCDecode {
		direction, stats = policy.Response, c.ResponseStats()
	}
	e.span.about(c)
	start := time.Now()
	payloads, err := run(ctx, c, rpc, list)
	switch {
	case err != nil:
		e.Failed(direction, err)
	case stats.Later > 0 && stats.Payloads == 0:
		err = refuse(http.StatusServiceUnavailable, "the key service does not answer, so nothing can be opened now; see the proxy's log")
		fallthrough
	default:
		e.Rewritten(direction, stats, time.Since(start), e.span.Span)
		e.span.rewrote(direction, stats)
		if err == nil {
			err = e.record(ctx, c, id)
		}
	}
	c.Done() // not deferred: what a panic left behind is not used again
	return payloads, err
}

// record puts down what was opened. An error means that the answer must not leave.
func (e *exchange) record(ctx context.Context, c *rewrite.Session, id *auth.Identity) error {
	account := c.Account()
	if e.Audit == nil || len(account) == 0 {
		return nil
	}
	r := audit.Record{
		Time:      time.Now(),
		Caller:    audit.Caller{Kind: id.Caller.Kind, Subject: id.Caller.Subject, Listener: id.Caller.Listener},
		Namespace: c.Namespace(), RPC: "codec-server/decode",
		Payloads: make([]audit.Payloads, len(account)),
		Code:     "OK", Policy: c.Revision(),
	}
	for i, a := range account {
		r.Payloads[i] = audit.Payloads{Kind: a.Kind, Namespace: a.Namespace, Key: a.Key, Verdict: string(a.Outcome), Count: a.Count}
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		r.Trace = span.TraceID().String()
	}
	if err := e.Audit.Write(ctx, &r); err != nil {
		return refuse(http.StatusServiceUnavailable, "%v", err)
	}
	return nil
}

// fail answers with an error and tells the operator.
func (e *exchange) fail(err error) int {
	status := writeError(e.ResponseWriter, err)
	e.Log.Log(context.Background(), slog.LevelWarn, "call refused", "rpc", e.route, "listener", Name, "code", status, "reason", err.Error())
	return status
}

// panicked tells of a fault in the proxy. The panic's value may quote a payload: only its type, and the stack, which holds
// no values, are logged.
func (s *Server) panicked(route string, value any) {
	s.metrics.panics.Inc()
	what := fmt.Sprintf("%T", value)
	var fault interface {
		error
		RuntimeError()
	}
	if err, ok := value.(error); ok && errors.As(err, &fault) {
		what = fault.Error()
	}
	s.Log.Error("a fault in the proxy ended a call; please report it", "rpc", route, "panic", what, "stack", string(debug.Stack()))
}
