package envelope

import (
	"strings"
	"testing"
)

// TestMarkersAreFoundWhereTheyBegin checks the search itself, at every place and in any order of questions.
func TestMarkersAreFoundWhereTheyBegin(t *testing.T) {
	for _, text := range []string{"", ".", "sealed", "sealed.", "xsealed.", "...sealed.", "sealed.sealed.", "aled.v1", "s.e.a.l.e.d.", "seale.sealed.x", "sealedx."} {
		m := FindMarkers([]byte(text))
		for range 2 { // the second time the questions come after those about later places
			for from := range len(text) + 1 {
				for to := from; to <= len(text); to++ {
					i := strings.Index(text[from:], string(markerStart))
					if want := i >= 0 && from+i < to; m.Within(from, to) != want {
						t.Errorf("in %q from %d to %d: %v", text, from, to, !want)
					}
				}
			}
		}
	}
}
