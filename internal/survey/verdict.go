package survey

import (
	"context"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// verdicts are those of both policies about one payload.
type verdicts struct{ inForce, candidate verdict }

// verdict is what a policy does with a payload.
type verdict struct {
	all           bool       // nothing of it stays readable
	fields, clear [][]string // what is sealed, or stays readable, by the steps of JSON pointers
	masked        [][]string // what is replaced before the rest is sealed
}

// verdicts asks both policies about a payload, and counts the answers.
func (s *Survey) verdicts(ctx context.Context, stratum *Stratum, in *policy.Input) verdicts {
	ask := func(p *policy.Policy, counts map[string]int) verdict {
		if p == nil {
			return verdict{}
		}
		v, err := p.Decide(ctx, policy.Request, in)
		if err != nil {
			counts["error"]++ // the call is refused
			return verdict{all: true}
		}
		if len(v.Fields) > 0 && envelope.Unmatched(in.Encoding, in.Data, v.Fields, v.MayMiss()) != "" {
			v.Fields = nil // it lacks one of them, and is sealed whole
		}
		counts[describe(v)]++
		return verdictOf(v)
	}
	return verdicts{ask(s.options.InForce, stratum.InForce), ask(s.options.Candidate, stratum.Candidate)}
}

// describe returns a verdict without what a rule may have computed from the payload.
func describe(v policy.Verdict) string {
	text := v.Action.String()
	switch {
	case v.Action.Seals() && len(v.Fields) > 0:
		text += " fields"
	case v.Action.Seals() && len(v.Clear) > 0:
		text += " all but fields"
	}
	if v.Weakened {
		text += " (a pass is not honored: the request does not contain all facts)"
	}
	return text
}

func verdictOf(v policy.Verdict) verdict {
	switch v.Action {
	case policy.Pass:
		return verdict{}
	case policy.Seal, policy.Mask, policy.Accept:
		var masked [][]string
		if v.Masked != nil {
			masked = pointers(v.Masked.Fields)
		}
		if len(v.Fields) > 0 && !slices.Contains(v.Fields, "") {
			return verdict{fields: pointers(v.Fields), masked: masked}
		}
		if len(v.Clear) > 0 {
			return verdict{all: true, clear: pointers(v.Clear), masked: masked}
		}
	}
	return verdict{all: true}
}

// pointers splits JSON pointers (RFC 6901) into their steps.
func pointers(texts []string) [][]string {
	var all [][]string
	for _, text := range texts {
		steps := strings.Split(text, "/")[1:]
		for i := range steps {
			steps[i] = strings.ReplaceAll(strings.ReplaceAll(steps[i], "~1", "/"), "~0", "~")
		}
		all = append(all, steps)
	}
	return all
}

// whole makes a verdict about members one about a whole payload, which is no JSON: it is sealed whole.
func (v *verdicts) whole() {
	for _, one := range []*verdict{&v.inForce, &v.candidate} {
		if len(one.fields) > 0 || len(one.clear) > 0 {
			*one = verdict{all: true}
		}
	}
}

// covers reports whether a verdict leaves nothing readable at a place.
func (v *verdict) covers(path []string) bool {
	starts := func(pointer []string) bool {
		return len(pointer) <= len(path) && slices.Equal(pointer, path[:len(pointer)])
	}
	if slices.ContainsFunc(v.masked, starts) {
		return true
	}
	if v.all {
		return !slices.ContainsFunc(v.clear, starts)
	}
	return slices.ContainsFunc(v.fields, starts)
}
