package rewrite

import (
	"log/slog"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// In shadow mode requests pass in clear, and the policy's verdicts on them are counted. Answers are opened as always, by the
// policy: namespaces may hold what was sealed before. So the rule of the marker holds as well: what bears ours in a request
// is sealed once more, or a stolen envelope would come back in clear.

// inShadow makes of a verdict on a slot, or of the error in its place, what shadow mode does.
func (s *sealer) inShadow(sl *slot, v *policy.Verdict, err error) error {
	e, refused := err.(*Error)
	switch {
	case sl.f.op == opNexusFailure || s.message.isSystem(sl): // its parts come here one by one
		return err
	case s.bearsMarker(sl), err != nil && (!refused || e.Kind == KindMemory):
		return err
	case err != nil:
		s.wouldRefuse(err)
	case v.Action == policy.Pass:
		return nil
	}
	s.stats.Shadow++
	v.Action = policy.Pass
	return nil
}

// unfound returns what happens to a request that cannot be walked: in shadow mode it passes, unless it might act where its
// caller does not reach.
func (s *sealer) unfound(in []byte, err error) ([]byte, error) {
	if e, ok := err.(*Error); !s.call.rewriter.shadow || s.call.reaches != nil || !ok || e.Kind == KindMemory {
		return nil, err
	}
	s.wouldRefuse(err)
	return in, nil
}

// bearsMarker reports whether a slot has this product's marker. Payloads of other tools pass in shadow mode: their workers may
// not use the proxy yet.
func (s *sealer) bearsMarker(sl *slot) bool {
	value := s.message.content(sl)
	switch sl.f.op {
	case opText, opReadable:
		return envelope.MarkedText(value)
	case opFailure:
		chain := s.message.failures(sl)
		for i := range chain {
			if p := &chain[i].parts; envelope.Marked(p[failAttributes].value.of(s.message.walk.buf)) ||
				envelope.MarkedText(p[failMessage].value.of(s.message.walk.buf)) ||
				envelope.MarkedText(p[failStack].value.of(s.message.walk.buf)) {
				return true
			}
		}
		return false
	}
	return envelope.Marked(value)
}

// wouldRefuse logs what is refused without shadow mode, once a minute for each namespace.
func (s *sealer) wouldRefuse(err error) {
	if leftOut, ok := s.call.rewriter.refusals.Next(s.call.namespace); ok {
		s.call.rewriter.log.Warn("shadow mode: this request would be refused", slog.String("namespace", s.call.namespace),
			slog.String("method", s.call.method.name), slog.String("error", err.Error()), slog.Int("lines_left_out", leftOut))
	}
}
