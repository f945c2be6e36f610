package rewrite

import (
	"errors"
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Outcome is what happened to a payload.
type Outcome string

// Outcomes of sealed payloads in responses, as audit records name them.
const (
	Opened   Outcome = "opened"
	Redacted Outcome = "redacted"
	Kept     Outcome = "kept"
	Denied   Outcome = "denied" // of a request too: it is refused
	Failed   Outcome = "failed" // the policy allows opening, but the envelope or its key does not
)

// Outcomes of payloads in requests, beside Redacted and Denied.
const (
	Sealed       Outcome = "sealed"
	Passed       Outcome = "passed"        // in clear, as the policy says
	PassedShadow Outcome = "passed_shadow" // in clear, though the policy does not let it pass
	Dropped      Outcome = "dropped"       // replaced by an empty value
)

// AllOutcomes lists the outcomes, those of requests first.
var AllOutcomes = []Outcome{Sealed, Passed, PassedShadow, Dropped, Denied, Opened, Redacted, Kept, Failed}

// Counted is how many payloads of one kind had one outcome.
type Counted struct {
	Kind    string
	Outcome Outcome
	N       int
}

// Outcomes counts the payloads of a message by kind and outcome. Kinds are a closed list, so it is short.
type Outcomes []Counted

// add counts n payloads.
func (o *Outcomes) add(kind string, outcome Outcome, n int) {
	for i := range *o {
		if c := &(*o)[i]; c.Kind == kind && c.Outcome == outcome {
			c.N += n
			return
		}
	}
	*o = append(*o, Counted{kind, outcome, n})
}

// addAll adds the counts of a nested message.
func (o *Outcomes) addAll(other Outcomes) {
	for _, c := range other {
		o.add(c.Kind, c.Outcome, c.N)
	}
}

// Withhold removes what did not happen, since the message as a whole failed.
func (o *Outcomes) Withhold() {
	*o = slices.DeleteFunc(*o, func(c Counted) bool { return c.Outcome != Denied && c.Outcome != Failed })
}

// actionOutcomes are those of payloads in requests, by the verdict.
var actionOutcomes = [...]Outcome{policy.Seal: Sealed, policy.Pass: Passed, policy.Redact: Redacted, policy.Drop: Dropped}

// decided counts a payload of a request by the action that the policy has chosen.
func (o *Outcomes) decided(kind string, action policy.Action, shadowed bool) {
	if shadowed {
		o.add(kind, PassedShadow, 1)
	} else {
		o.add(kind, actionOutcomes[action], 1)
	}
}

// refused counts a payload for which a request is refused. What was decided about others does not happen.
func (o *Outcomes) refused(kind string, err error) {
	o.Withhold()
	if refused, ok := errors.AsType[*Error](err); ok && refused.Kind == KindDenied {
		o.add(kind, Denied, 1)
	}
}
