package main

import (
	"os"
	"regexp"
	"testing"
)

// TestMachine requires each row that a reader needs to compare results. Without git there is no commit to name, which is an error.
func TestMachine(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := machine(t.Context(), self)
	if err != nil {
		t.Skip("outside a checkout: ", err)
	}
	for _, row := range []string{`CPU \| [^|]+`, `cores \| [0-9]+`, `memory \| ([0-9.]+ GiB|unknown)`, `Go \| 1\.[0-9]+`, `commit \| [0-9a-f]{7,}( with changes)?`, `date \| 20[0-9-]+`} {
		if !regexp.MustCompile(`(?m)^\| ` + row).MatchString(text) {
			t.Errorf("no row %s in\n%s", row, text)
		}
	}
}
