package server

import (
	"cmp"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"
	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// Metrics counts what the proxy does. Labels come from closed sets (methods, codes, actions, kinds of error),
// never from a call's content, so that no caller can make new series.
type Metrics struct {
	// Traffic is for people: by names that callers choose, which it bounds.
	Traffic *traffic.Table

	registry promauto.Factory
	calls    *prometheus.HistogramVec
	inFlight prometheus.Gauge
	payloads *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	failures *prometheus.CounterVec
	unopened *prometheus.CounterVec
	rewrite  *prometheus.HistogramVec
	standIns *prometheus.CounterVec
	panics   prometheus.Counter
	open     prometheus.Gauge
	refused  *prometheus.CounterVec
	limits   *prometheus.GaugeVec

	panicLines lograte.Limiter // of the log lines about panics, by method

	directions [2]directionMetrics
	requests   requestMetrics
}

// requestMetrics count payloads of requests of which an operator should know.
type requestMetrics struct {
	shadow, notFound, notAnArray, external, unattributed prometheus.Counter
}

// directionMetrics are looked up once: a lookup by label costs more than the count.
type directionMetrics struct {
	changed, left prometheus.Counter // left: as they were, as the policy says
	bytes         prometheus.Counter
	rewrite       prometheus.Observer
}

// NewMetrics registers the proxy's metrics. The traffic of the named namespaces is counted apart in any case.
func NewMetrics(r prometheus.Registerer, named ...string) *Metrics {
	f := promauto.With(r)
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		Traffic: traffic.New(named...), registry: f,
		calls: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rpc_server_call_duration_seconds",
			Help:    "Time from a call's arrival to its answer, by method and gRPC status code.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 70},
		}, []string{"rpc_method", "rpc_response_status_code"}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{
			Name: "temporal_seal_calls_in_flight", Help: "Calls being answered now, held polls included."}),
		payloads: counters("temporal_seal_payloads_total",
			"Payloads by what happened to them: sealed and passed_request in requests, opened and kept (sealed) in responses; "+
				"passed_shadow are those that the policy does not let pass and that shadow mode left in clear.", "action"),
		bytes: counters("temporal_seal_payload_bytes_total", "Clear bytes of payloads sealed and opened.", "action"),
		failures: counters("temporal_seal_failures_total",
			"Messages that could not be rewritten, by direction and reason.", "direction", "reason"),
		unopened: counters("temporal_seal_unopened_total",
			"Sealed values of answers that did not open, by reason. They stayed sealed, or failed their call or task.", "reason"),
		rewrite: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "temporal_seal_rewrite_duration_seconds",
			Help: "Time to find, decide, seal or open, and splice one message.",
			Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2,
				0.25, 1, 5},
		}, []string{"direction"}),
		standIns: counters("temporal_seal_tasks_answered_total", "Tasks answered in their worker's place, "+
			"since they could not be opened or their answer could not be sent, by method.", "rpc_method"),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "temporal_seal_panics_total", Help: "Calls that a fault in the proxy ended. Please report them."}),
		open: f.NewGauge(prometheus.GaugeOpts{
			Name: "temporal_seal_connections", Help: "Open connections of callers."}),
		refused: counters("temporal_seal_refused_total",
			"Calls and connections refused for a limit of the config, by limit.", "limit"),
		limits: f.NewGaugeVec(prometheus.GaugeOpts{Name: "temporal_seal_limit",
			Help: "The limits that hold, from the config or from the memory, by the key of the config."}, []string{"limit"}),
	}
	m.directions = [2]directionMetrics{m.direction("request", "sealed", "passed_request"), m.direction("response", "opened", "kept")}
	m.requests.shadow = m.payloads.WithLabelValues("passed_shadow")
	m.requests.external = f.NewCounter(prometheus.CounterOpts{Name: "temporal_seal_external_payloads_total",
		Help: "Payloads of requests that are references to external storage of an SDK, where the proxy encrypts nothing."})
	m.requests.unattributed = f.NewCounter(prometheus.CounterOpts{Name: "temporal_seal_unattributed_payloads_total",
		Help: "Payloads sealed with the key of no subject, in namespaces whose rules name subjects."})
	unmatched := counters("temporal_seal_fields_unmatched_total", "Payloads sealed whole, since a field that a rule names was not "+
		"found, or its `*` met something else than an array, by reason.", "reason")
	m.requests.notFound, m.requests.notAnArray = unmatched.WithLabelValues("not_found"), unmatched.WithLabelValues("not_an_array")
	m.begin()
	return m
}

// begin makes the series that alerts watch. A series that first appears with its first count never seems to
// grow.
func (m *Metrics) begin() {
	for _, d := range []policy.Direction{policy.Request, policy.Response} {
		for _, reason := range append(rewrite.Reasons(), reasonUnrecorded) {
			m.failures.WithLabelValues(d.String(), reason)
		}
	}
	for _, reason := range rewrite.Reasons() {
		m.unopened.WithLabelValues(reason)
	}
	for _, limit := range []string{"connections", "calls", "long_polls", "bytes"} {
		m.refused.WithLabelValues(limit)
	}
	for _, method := range []string{"RespondWorkflowTaskFailed", "RespondActivityTaskFailed", "RespondActivityTaskFailedById",
		"RespondQueryTaskCompleted", "RespondNexusTaskFailed", "PauseActivity", "UnpauseActivity"} {
		m.standIns.WithLabelValues(method)
	}
}

func (m *Metrics) direction(name, action, left string) directionMetrics {
	return directionMetrics{
		changed: m.payloads.WithLabelValues(action), left: m.payloads.WithLabelValues(left),
		bytes:   m.bytes.WithLabelValues(action),
		rewrite: m.rewrite.WithLabelValues(name),
	}
}

// hold notes the limits that hold.
func (m *Metrics) hold(l *Limits) {
	for limit, n := range map[string]int64{"connections": int64(l.Connections), "calls": int64(l.Calls), "long_polls": int64(l.LongPolls),
		"bytes": l.Bytes, "request_bytes": l.RequestBytes} {
		m.limits.WithLabelValues(limit).Set(float64(n))
	}
}

// watch adds gauges for the connections to upstreams, the bytes of messages in memory, and the polls that are held.
func (m *Metrics) watch(connections func() int, bytes func() int64, held func() int) {
	m.registry.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "temporal_seal_upstream_connections", Help: "Connections to upstreams."},
		func() float64 { return float64(connections()) })
	m.registry.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "temporal_seal_bytes_in_flight", Help: "Bytes of messages in memory, each counted once."},
		func() float64 { return float64(bytes()) })
	m.registry.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "temporal_seal_polls_held", Help: "Polls that are held, since keys or the upstream do not answer " +
			"or the namespace's policy does not load. Their tasks wait at the server."},
		func() float64 { return float64(held()) })
}

// observe counts a duration. The trace of a sampled call goes with it, so that a slow bucket leads to an
// example.
func observe(o prometheus.Observer, took time.Duration, span trace.Span) {
	if sc := span.SpanContext(); sc.IsSampled() {
		if with, ok := o.(prometheus.ExemplarObserver); ok {
			with.ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": sc.TraceID().String()})
			return
		}
	}
	o.Observe(took.Seconds())
}

// Rewritten counts one message whose payloads were sealed or opened.
func (m *Metrics) Rewritten(d policy.Direction, s *rewrite.Stats, took time.Duration, span trace.Span) {
	to := &m.directions[d]
	if left := s.Passed + s.Kept; left > 0 { // one of them is 0
		to.left.Add(float64(left))
	}
	if s.Shadow > 0 {
		m.requests.shadow.Add(float64(s.Shadow))
	}
	if s.External > 0 {
		m.requests.external.Add(float64(s.External))
	}
	if s.Unattributed > 0 {
		m.requests.unattributed.Add(float64(s.Unattributed))
	}
	if s.NotFound+s.NotAnArray > 0 {
		m.requests.notFound.Add(float64(s.NotFound))
		m.requests.notAnArray.Add(float64(s.NotAnArray))
	}
	observe(to.rewrite, took, span)
	if s.Payloads > 0 {
		to.changed.Add(float64(s.Payloads))
		to.bytes.Add(float64(s.Bytes))
	}
}

// Failed counts one message that could not be rewritten.
func (m *Metrics) Failed(d policy.Direction, err error) {
	m.failures.WithLabelValues(d.String(), reason(err)).Inc()
}

// refusedRequest counts one request that could not be rewritten.
func (m *Metrics) refusedRequest(s *rewrite.Stats, err error) {
	m.Failed(policy.Request, err)
	m.requests.external.Add(float64(s.External))
}

// reasonUnrecorded is the reason of answers whose audit records are required and could not be kept.
const reasonUnrecorded = "unrecorded"

// reason returns why a message failed, in one word of a closed list.
func reason(err error) string {
	if errors.Is(err, audit.ErrUnrecorded) {
		return reasonUnrecorded
	}
	return rewrite.Reason(err)
}

// answered counts a task that was answered in its worker's place.
func (m *Metrics) answered(method string) { m.standIns.WithLabelValues(method).Inc() }

// methodMetrics counts the calls of one method.
type methodMetrics struct {
	vec    *prometheus.HistogramVec
	name   string
	byCode [17]struct {
		once     sync.Once
		observer prometheus.Observer
	}
}

// method returns the counters of one method, which are made when they are first used.
func (m *Metrics) method(fullMethod string) *methodMetrics {
	return &methodMetrics{vec: m.calls, name: fullMethod[1:]}
}

// observe counts one call. Codes that gRPC does not define count as Unknown.
func (m *methodMetrics) observe(code codes.Code, took time.Duration, span trace.Span) {
	if int(code) >= len(m.byCode) {
		code = codes.Unknown
	}
	c := &m.byCode[code]
	c.once.Do(func() { c.observer = m.vec.WithLabelValues(m.name, codeName(code)) })
	observe(c.observer, took, span)
}

// codeName is a code as the semantic conventions of OpenTelemetry write it.
func codeName(code codes.Code) string {
	return cmp.Or(rpccode.Code_name[int32(code)], "UNKNOWN")
}
