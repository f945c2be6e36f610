package codecserver

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
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
			s.metrics.panics.Inc()
			s.options.Log.Error("a fault in the proxy ended a call; please report it", "rpc", e.route, "panic", fault.Describe(p),
				"stack", string(debug.Stack())) // a stack holds no values
			status = writeError(w, refuse(http.StatusInternalServerError, "a fault in the proxy ended this call: its log holds the place"))
		}
		e.endSpan(status)
		s.metrics.requests.WithLabelValues(e.route, strconv.Itoa(status)).Observe(time.Since(start).Seconds())
	}()
	text, err := e.answer(ctx)
	status = e.send(text, err)
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
		return nil, refuse(http.StatusMethodNotAllowed, "a codec server is asked by POST")
	}
	// A page can send other types without a preflight, forms among them.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, refuse(http.StatusUnsupportedMediaType, "the body has to be application/json")
	}
	id, namespace, err := e.authenticate()
	switch {
	case err != nil:
		return nil, err
	case e.route == routeDownload:
		// 404 and not 501, after which the Web UI would ask twice again.
		return nil, refuse(http.StatusNotFound, "this codec server keeps no payloads in an external storage, so there is nothing to download")
	}
	return e.rewriteBody(ctx, id, namespace)
}

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
	if len(namespaces) != 1 || namespaces[0] == "" {
		return nil, "", refuse(http.StatusBadRequest, "the header X-Namespace has to name the namespace of the payloads: the Web UI and the command line send it by themselves")
	}
	return id, namespaces[0], id.Authorize(namespaces[0])
}

// rewriteBody seals or opens the payloads in the body, and returns the text of the answer.
func (e *exchange) rewriteBody(ctx context.Context, id *auth.Identity, namespace string) ([]byte, error) {
	body, err := e.readBody()
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
	payloads, err := e.rewrite(ctx, session, list.Payloads)
	if err == nil {
		err = e.record(ctx, session, id)
	}
	session.Done() // not deferred: what a panic left behind is not used again
	if err != nil {
		return nil, err
	}
	return writePayloads(payloads)
}

// readBody reads the body up to maxBody. It returns what it has read beside an error too, so that the
// caller can clear it.
func (e *exchange) readBody() ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(e.w, e.r.Body, maxBody))
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
func (e *exchange) rewrite(
	ctx context.Context, session *rewrite.Session, list []*commonpb.Payload,
) ([]*commonpb.Payload, error) {
	direction, stats, run := policy.Request, session.RequestStats(), session.Request
	if e.route == routeDecode {
		direction, stats, run = policy.Response, session.ResponseStats(), session.Response
	}
	e.describeSession(session)
	start := time.Now()
	payloads, err := rewriteList(ctx, run, list)
	if err != nil {
		e.server.options.Failed(direction, err)
		return nil, err
	}
	if e.route == routeDecode {
		openTexts(ctx, session, list, payloads)
	}
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
func (e *exchange) send(text []byte, err error) (status int) {
	switch {
	case err != nil:
		status = writeError(e.w, err)
		e.server.options.Log.Warn("call refused", "rpc", e.route, "listener", Name, "code", status, "reason", err.Error())
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
