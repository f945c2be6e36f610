package app

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/server"
)

// TestSamplers: each sampler that the variables may name, by the share of the traces without a parent that it takes.
func TestSamplers(t *testing.T) {
	const ids = 20_000
	for _, c := range []struct {
		kind, arg string
		share     float64
		wrong     string // part of the error
	}{
		{share: 1},
		{kind: "parentbased_always_on", share: 1},
		{kind: "parentbased_always_off"},
		{kind: "parentbased_traceidratio", arg: "0.1", share: .1},
		{kind: "always_on", arg: "0.1", share: 1},
		{kind: "always_off"},
		{kind: " TraceIDRatio ", arg: " 0.5 ", share: .5},
		{kind: "traceidratio", share: 1},
		{kind: "traceidratio", arg: "0"},
		{kind: "traceidratio", arg: "1%", wrong: `OTEL_TRACES_SAMPLER_ARG: "1%" is no share of the traces; write a number from 0 to 1`},
		{kind: "traceidratio", arg: "2", wrong: "a number from 0 to 1"},
		{kind: "traceidratio", arg: "NaN", wrong: "a number from 0 to 1"},
		{kind: "jaeger_remote", wrong: `OTEL_TRACES_SAMPLER: "jaeger_remote" is no sampler of this proxy; write always_on`},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", c.kind)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", c.arg)
		s, err := newSampler()
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s %s: %v, want %q", c.kind, c.arg, err, c.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.kind, c.arg, err)
			continue
		}
		sampled, roots := 0, samplesRoot(s)
		for range ids {
			if roots(server.NewTraceID()) {
				sampled++
			}
		}
		if off := float64(sampled)/ids - c.share; off < -.02 || off > .02 {
			t.Errorf("%s %s: %d of %d traces, want %.0f %%", c.kind, c.arg, sampled, ids, 100*c.share)
		}
	}
}

// TestTraceIDs: the server's own draw is the trace's id, and spans have valid ids.
func TestTraceIDs(t *testing.T) {
	a, span := traceIDs{}.NewIDs(t.Context())
	b, _ := traceIDs{}.NewIDs(t.Context())
	if a == b || !a.IsValid() || !span.IsValid() || span == (traceIDs{}).NewSpanID(t.Context(), trace.TraceID{}) {
		t.Errorf("ids repeat or are invalid: %s, %s, %s", a, b, span)
	}
}
