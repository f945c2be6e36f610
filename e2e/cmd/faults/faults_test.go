package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const patch = `diff --git a/x.go b/x.go
--- a/x.go
+++ b/x.go
@@ -1 +1 @@
-a
+b
`

func TestHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		header string
		fault  string // of the header; empty: none
	}{
		"whole":               {"Breaks: a rule\nKilled-by: TestA|TestB\n", ""},
		"by a unit test":      {"Breaks: a rule\nKilled-by-unit: ./x TestC\nWhy-unit: time\n", ""},
		"without a rule":      {"Killed-by: TestA\n", "Breaks"},
		"without a test":      {"Breaks: a rule\n", "Killed-by"},
		"without a reason":    {"Breaks: a rule\nKilled-by-unit: ./x TestC\n", "Why-unit"},
		"with something else": {"Breaks: a rule\nKiled-by: TestA\n", "Kiled-by"},
	} {
		path := filepath.Join(t.TempDir(), "name.patch")
		if err := os.WriteFile(path, []byte(c.header+patch), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := readFault(path)
		switch {
		case c.fault == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.fault == "" && (f.name != "name" || f.breaks != "a rule" || !slices.Equal(f.files, []string{"x.go"})):
			t.Errorf("%s: %+v", name, f)
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("%s: %v, want an error about %s", name, err, c.fault)
		}
	}
}

func TestJudge(t *testing.T) {
	failed := errors.New("exit status 1")
	for out, c := range map[string]struct {
		err  error
		want string
	}{
		"--- FAIL: TestA (0.1s)\n    a_test.go:1: wrong\nFAIL\n":                             {failed, "killed"},
		"--- PASS: TestA (0.1s)\nPASS\n":                                                     {nil, "SURVIVED"},
		"panic: test timed out after 2m0s\n--- FAIL: TestA (120s)\n":                         {failed, "SURVIVED"},
		"--- FAIL: TestA (0.1s)\n    a_test.go:1: the proxy did not start: it ended\nFAIL\n": {failed, "SURVIVED"},
		"    --- FAIL: TestA/sub (0.1s)\n":                                                   {failed, "SURVIVED"},
		"":                                                                                   {failed, "SURVIVED"},
	} {
		if got := judge([]byte(out), c.err); got.word() != c.want {
			t.Errorf("%q: %s (%s), want %s", out, got.word(), got.by, c.want)
		}
	}
}
