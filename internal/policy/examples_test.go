package policy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const root = "../.."

// exampleOptions loads an example as its configuration would: a folder without a
// policy.rego of its own runs under the policy that ships.
func exampleOptions(t testing.TB, folder string) Options {
	t.Helper()
	opts := Options{File: filepath.Join(folder, "policy.rego"), Namespaces: filepath.Join(folder, "namespaces")}
	if _, err := os.Stat(opts.File); err != nil {
		opts.File = filepath.Join(root, "policy.rego")
	}
	if _, err := os.Stat(opts.Namespaces); err != nil {
		opts.Namespaces = ""
	}
	return opts
}

// TestExamples runs the Rego tests and the cases of everything under examples, and
// those of the policy that ships.
func TestExamples(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(root, "examples", "*"))
	if err != nil || len(folders) == 0 {
		t.Fatalf("no examples found: %v", err)
	}
	for _, folder := range folders {
		own, _ := filepath.Glob(filepath.Join(folder, "*.rego"))
		teams, _ := filepath.Glob(filepath.Join(folder, "namespaces", "*.rego"))
		if len(own)+len(teams) == 0 {
			continue // an example of something else than a policy
		}
		t.Run(filepath.Base(folder), func(t *testing.T) {
			for _, name := range []string{"config.yaml", "README.md"} {
				if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
					t.Error(err)
				}
			}
			cases := filepath.Join(folder, "cases.yaml")
			opts := exampleOptions(t, folder)
			opts.Unmatched, opts.Masker = envelope.Unmatched, envelope.MaskDocument
			r := Check(context.Background(), CheckOptions{Options: opts, Cases: []string{cases}})
			for _, f := range r.Findings {
				if f.Level != Note || !strings.Contains(f.Text, "input.payload.external") {
					t.Error(f)
				}
			}
			if r.Tests == 0 || r.Cases == 0 {
				t.Errorf("%d tests and %d cases ran", r.Tests, r.Cases)
			}
		})
	}
}

func TestRegoIsFormatted(t *testing.T) {
	for _, pattern := range []string{"*.rego", "examples/*/*.rego", "examples/*/namespaces/*.rego"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			checkFormat(t, name)
		}
	}
}

// checkFormat holds a file to the form of `opa fmt`.
func checkFormat(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if !bytes.Equal(text, want) {
		t.Errorf("%s is not formatted as `opa fmt` would; it writes:\n%s", name, want)
	}
}

// TestFloorRefuses loads each file that the floor example says is refused, as the only
// namespace's file.
func TestFloorRefuses(t *testing.T) {
	folder := filepath.Join(root, "examples", "floor")
	names, err := filepath.Glob(filepath.Join(folder, "refused", "*.rego"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files found: %v", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		opts := options(t, map[string]string{filepath.Base(name): string(text)}, ranked("floor", "default", "loose"))
		opts.File = filepath.Join(folder, "policy.rego")
		var e *Error
		if _, err := Load(context.Background(), opts); !errors.As(err, &e) || e.Location == "" {
			t.Errorf("%s: %v", filepath.Base(name), err)
		} else {
			t.Logf("%v", err)
		}
	}
}
