package rewrite

import (
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// mask masks the members of the payload of the last item that the policy names. A payload of which a value might remain is
// refused: to seal it would keep the value for whoever may open it.
func mask(s *sealer, sl *slot, v *policy.Verdict, external bool) error {
	payload, m := s.message.content(sl), v.Masked
	if err := s.call.meter.take(2*len(payload) + envelope.MaskMemory(payload, m.Fields)); err != nil {
		return err
	}
	why, n := "it is no payload", 0
	it := &s.items[len(s.items)-1]
	switch {
	case external:
		why = policy.ExternalUnmasked
	case sl.f.op == opPayload:
		it.masked, n, why = envelope.AppendMasked(nil, payload, envelope.Selection{Fields: m.Fields, Optional: m.Optional})
		if why != "" && m.Computed {
			why = "it is no JSON document with all members that a rule names"
		}
	}
	if why != "" {
		return s.call.fail(KindDenied, sl.f.path, &DeniedError{
			Reason: "a rule masks members of this payload, and it cannot be masked: " + why})
	}
	if n == 0 { // none of them is there, and none has to be
		it.masked, v.Action = nil, policy.Seal
	}
	return nil
}
