package app

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/server"
)

// newSampler returns the sampler that the OTEL_TRACES_SAMPLER variables name, as the OpenTelemetry specification has them
// ("SDK Environment Variable Spec"). The SDK reads them too, but keeps the sampler to itself, and takes a wrong value for "all".
func newSampler() (sdktrace.Sampler, error) {
	kind := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER")))
	arg := strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	ratio := 1.0
	if arg != "" && strings.HasSuffix(kind, "traceidratio") {
		var err error
		if ratio, err = strconv.ParseFloat(arg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG: %q is no share of the traces; write a number from 0 to 1", arg)
		}
	}
	switch kind {
	case "", "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	case "parentbased_traceidratio":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)), nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(ratio), nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER: %q is no sampler of this proxy; write always_on, always_off or traceidratio, "+
		"or one of them with parentbased_ before it", kind)
}

// samplesRoot returns what a sampler decides about traces without a parent.
func samplesRoot(s sdktrace.Sampler) func(trace.TraceID) bool {
	return func(id trace.TraceID) bool {
		d := s.ShouldSample(sdktrace.SamplingParameters{ParentContext: context.Background(), TraceID: id, Kind: trace.SpanKindServer})
		return d.Decision == sdktrace.RecordAndSample
	}
}

// traceIDs draws the ids of spans, and of traces for which the server has drawn none.
type traceIDs struct{}

// NewIDs is part of sdktrace.IDGenerator.
func (g traceIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, drawn := server.RootTraceID(ctx)
	if !drawn {
		id = server.NewTraceID()
	}
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID is part of sdktrace.IDGenerator.
func (traceIDs) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
