package rewrite

import "testing"

// TestOutcomesWithhold: of a message that failed nothing remains but why.
func TestOutcomesWithhold(t *testing.T) {
	var o Outcomes
	o.add("input", Sealed, 1)
	o.add("input", Sealed, 2)
	o.add("memo", Denied, 1)
	o.addAll(Outcomes{{"memo", Denied, 1}, {"memo", Opened, 1}, {"result", Failed, 1}})
	if len(o) != 4 || o[0].N != 3 || o[1].N != 2 {
		t.Errorf("%v", o)
	}
	if o.Withhold(); len(o) != 2 || o[0] != (Counted{"memo", Denied, 2}) || o[1] != (Counted{"result", Failed, 1}) {
		t.Errorf("%v", o)
	}
}
