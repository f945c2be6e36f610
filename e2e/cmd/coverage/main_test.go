package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const profileA = `mode: atomic
github.com/temporal-seal/temporal-seal/internal/a/a.go:1.2,3.4 90 1
github.com/temporal-seal/temporal-seal/internal/a/a.go:5.2,6.4 910 0
github.com/temporal-seal/temporal-seal/codec/c.go:1.2,3.4 5 0
`

// profileB has the same blocks from another test binary.
const profileB = `mode: atomic
github.com/temporal-seal/temporal-seal/internal/a/a.go:1.2,3.4 90 0
github.com/temporal-seal/temporal-seal/internal/a/a.go:5.2,6.4 910 7
github.com/temporal-seal/temporal-seal/codec/c.go:1.2,3.4 5 1
`

// TestRecord writes a record and compares with it: the same coverage passes, less fails.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b, record := file("a", profileA), file("b", profileB), filepath.Join(dir, "record")
	var out strings.Builder
	if err := run(&out, record, true, []string{a, b}); err != nil {
		t.Fatalf("write the record: %v", err)
	}
	if err := run(&out, record, false, []string{b, a}); err != nil {
		t.Errorf("the same coverage: %v", err)
	}
	text, _ := os.ReadFile(record)
	for _, row := range []string{"internal/a 1000 1000 100.0", "codec 5 5 100.0", "total 1005 1005 100.0"} {
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), row) {
			t.Errorf("the record has no row %q:\n%s", row, text)
		}
	}
	if err := run(&out, record, false, []string{a}); err == nil || !strings.Contains(err.Error(), "internal/a: 9.0 %") || !strings.Contains(err.Error(), "total") {
		t.Errorf("less coverage: error %v", err)
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name      string
		then, now table
		want      string // in the error; empty: no error
	}{
		{"within the slack", table{"a": {900, 1000}, "total": {900, 1000}}, table{"a": {897, 1000}}, ""},
		{"below the slack", table{"a": {900, 1000}, "total": {900, 1000}}, table{"a": {896, 1000}}, "a: 89.6 %"},
		{"two statements of few", table{"a": {50, 50}, "total": {50, 50}}, table{"a": {48, 50}}, ""},
		{"three statements of few", table{"a": {50, 50}, "total": {50, 50}}, table{"a": {47, 50}}, "a: 94.0 %"},
		{"less code, as well covered", table{"a": {900, 1000}, "total": {900, 1000}}, table{"a": {90, 100}}, ""},
		{"gone", table{"a": {1, 2}, "b": {1, 2}, "total": {2, 4}}, table{"a": {1, 2}}, "package b is on record"},
		{"new", table{"a": {1, 2}, "total": {1, 2}}, table{"a": {1, 2}, "b": {1, 2}}, "package b is not on record"},
		{"total alone", table{"a": {1000, 1000}, "b": {0, 10}, "total": {1000, 1010}}, table{"a": {1000, 1000}, "b": {0, 100}}, "total: 90.9 %"},
	} {
		var out strings.Builder
		err := compare(&out, c.then, c.now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func TestUnreadable(t *testing.T) {
	if err := addProfile(map[string]block{}, strings.NewReader("mode: set\nfile.go:1.2,3.4 x 1\n")); err == nil {
		t.Error("a profile with letters for numbers was read")
	}
	if _, err := readTable(strings.NewReader("a 1 2\n")); err == nil {
		t.Error("a record without a column was read")
	}
}
