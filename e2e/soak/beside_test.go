package main

import (
	"strings"
	"testing"
)

const keyMetrics = `temporal_seal_key_info{kek="aa",key="default",role="active"} 1
temporal_seal_key_info{kek="bb",key="default",role="open_only"} 1
temporal_seal_key_info{kek="cc",key="side",role="active"} 1
temporal_seal_key_payloads_total{action="opened",kek="aa",key="default"} 5
temporal_seal_key_payloads_total{action="opened",kek="bb",key="default"} 7
temporal_seal_key_payloads_total{action="sealed",kek="aa",key="default"} 11
temporal_seal_key_payloads_total{action="sealed",kek="bb",key="default"} 13
`

// TestKeyMetrics: what a proxy opened counts by the key that sealed it, and nothing else counts.
func TestKeyMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(keyMetrics))
	if err != nil {
		t.Fatal(err)
	}
	if kek, err := activeKEK(m); err != nil || kek != "aa" {
		t.Errorf("the active key is %q, error %v, want aa", kek, err)
	}
	if n := openedWith(m, "bb"); n != 7 {
		t.Errorf("%d payloads of key bb were opened, want 7", n)
	}
	if n := openedWith(m, "dd"); n != 0 {
		t.Errorf("%d payloads of a key that nobody uses were opened", n)
	}
	if _, err := activeKEK(map[string]float64{}); err == nil {
		t.Error("a proxy without keys has an active one")
	}
}

func TestTooManyLost(t *testing.T) {
	for _, c := range []struct {
		tasks, workflows, before, workflowsBefore int
		want                                      bool
	}{
		{0, 100, 0, 100, false}, {1, 246, 0, 160, false}, {3, 100, 0, 100, false}, {8, 100, 0, 100, true}, {10, 120, 3, 120, false}, {40, 120, 3, 120, true},
		{24, 120, 20, 120, false}, {90, 120, 20, 120, true}, {2, 10, 0, 0, true},
	} {
		if got := tooManyLost(c.tasks, c.workflows, c.before, c.workflowsBefore); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
