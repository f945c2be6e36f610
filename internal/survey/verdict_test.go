package survey

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// TestMaskedMembersAreCovered: what a rule masks is not readable, whatever the rest is.
func TestMaskedMembersAreCovered(t *testing.T) {
	mask := &policy.Masking{Fields: []string{"/ssn", "/a~1b"}}
	for name, c := range map[string]struct {
		verdict   policy.Verdict
		described string
		readable  string
	}{
		"alone":       {policy.Verdict{Action: policy.Mask, Masked: mask}, "mask", ""},
		"and fields":  {policy.Verdict{Action: policy.Mask, Masked: mask, Fields: []string{"/name"}}, "mask fields", "ward"},
		"all but one": {policy.Verdict{Action: policy.Mask, Masked: mask, Clear: []string{"/ward"}}, "mask all but fields", "ward"},
		"in a part":   {policy.Verdict{Action: policy.Mask, Masked: mask, Clear: []string{"/ward", "/ssn"}}, "mask all but fields", "ward"},
	} {
		v := verdictOf(c.verdict)
		if got := describe(c.verdict); got != c.described {
			t.Errorf("%s: described as %q", name, got)
		}
		for _, member := range []string{"ssn", "a/b", "name", "ward"} {
			if covered := v.covers([]string{member}); covered == (member == c.readable) {
				t.Errorf("%s: %s is covered: %v", name, member, covered)
			}
		}
	}
}
