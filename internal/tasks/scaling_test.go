package tasks

import (
	"testing"
)

func TestVersionSuggestsPollers(t *testing.T) {
	for version, want := range map[string]bool{"1.29.1": true, "1.31.0-142.5": true, "2.0.0": true, "1.28.3": false, "1.2.3": false, "": false, "dev": false} {
		if got := versionSuggestsPollers(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
