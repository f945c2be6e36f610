package app

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// spanQueue stands before the SDK's own queue of spans and counts what happens to them, which the SDK does
// not report: it lets no more in than that one holds, so that none is lost there unseen. No call ever waits
// for it.
type spanQueue struct {
	sdktrace.SpanProcessor
	waiting                   atomic.Int64 // spans that were let in and not exported yet
	size                      int64        // the most of them
	exported, failed, dropped prometheus.Counter
}

// newSpanQueue sends spans to an exporter, in batches as the OTEL_BSP_* variables say.
func newSpanQueue(exporter sdktrace.SpanExporter, r prometheus.Registerer) *spanQueue {
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "temporal_seal_spans_total",
		Help: "Ended spans by outcome: exported, failed (the collector did not accept them), " +
			"dropped (no room to wait).",
	}, []string{"outcome"})
	r.MustRegister(outcomes)
	q := &spanQueue{
		size:     queueSize(),
		exported: outcomes.WithLabelValues("exported"), failed: outcomes.WithLabelValues("failed"),
		dropped: outcomes.WithLabelValues("dropped"),
	}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(countingExporter{exporter, q},
		sdktrace.WithMaxQueueSize(int(q.size)))
	return q
}

// queueSize is what the SDK would take.
func queueSize() int64 {
	if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		return int64(n)
	}
	return sdktrace.DefaultMaxQueueSize
}

// OnEnd queues a span, or drops it if the queue is full.
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.size {
		q.waiting.Add(-1)
		q.dropped.Inc()
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// countingExporter counts for the queue what the collector took.
type countingExporter struct {
	sdktrace.SpanExporter
	queue *spanQueue
}

// ExportSpans is part of sdktrace.SpanExporter.
func (e countingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.queue.waiting.Add(-int64(len(spans)))
	if err != nil {
		e.queue.failed.Add(float64(len(spans)))
	} else {
		e.queue.exported.Add(float64(len(spans)))
	}
	return err
}
