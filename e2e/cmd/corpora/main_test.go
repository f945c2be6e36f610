package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree is a module with two targets of the same name, one of which has inputs.
func tree(t *testing.T) (root, list string) {
	t.Helper()
	root = t.TempDir()
	put(t, root, "go.mod", "module m\n")
	put(t, root, "a/a_test.go", "package a\n\nfunc FuzzX(f *testing.F) {}\n\nfunc FuzzY(f *testing.F) {}\n")
	put(t, root, "a/testdata/fuzz/FuzzX/one", "first")
	put(t, root, "a/testdata/fuzz/FuzzX/two", "second")
	put(t, root, "b/b_test.go", "package b\n\nfunc FuzzX(f *testing.F) {}\n")
	put(t, root, "nested/go.mod", "module other\n")
	put(t, root, "nested/n_test.go", "package n\n\nfunc FuzzZ(f *testing.F) {}\n")
	return root, filepath.Join(root, "list.txt")
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func threeSeeds(string, string) (map[string]int, error) {
	return map[string]int{"FuzzX": 3, "FuzzY": 3}, nil
}

// TestCompare writes a list and then takes something away.
func TestCompare(t *testing.T) {
	rename := func(from, to string) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			if err := os.Rename(filepath.Join(root, from), filepath.Join(root, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(t *testing.T, root string) {
		return func(t *testing.T, root string) {
			if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, root string)
		seeds  int
		want   string // in the error; empty: none
	}{
		{"nothing", func(*testing.T, string) {}, 3, ""},
		{"a package moves", rename("a", "c"), 3, ""},
		{"both move", func(t *testing.T, root string) { rename("b", "d")(t, root); rename("a", "c")(t, root) }, 3, ""},
		{"a file is renamed", rename("a/testdata/fuzz/FuzzX/one", "a/testdata/fuzz/FuzzX/three"), 3, ""},
		{"a target goes", remove("b"), 3, "FuzzX of b is gone"},
		{"an input goes", remove("a/testdata/fuzz/FuzzX/one"), 3, "FuzzX: 1 inputs are not in a/testdata/fuzz/FuzzX"},
		{"inputs stay behind", rename("a/a_test.go", "b/c_test.go"), 3, "2 inputs are not in"},
		{"an input changes", func(t *testing.T, root string) { put(t, root, "a/testdata/fuzz/FuzzX/one", "other") }, 3, "1 inputs"},
		{"a seed goes", func(*testing.T, string) {}, 2, "2 seeds by f.Add, the list has 3"},
		{"a target comes", func(t *testing.T, root string) { put(t, root, "e/e_test.go", "func FuzzNew(f *testing.F) {}\n") }, 3, "FuzzNew of e is not on the list"},
		{"too much", func(t *testing.T, root string) {
			put(t, root, "a/testdata/fuzz/FuzzY/big", strings.Repeat("x", maxBytes+1))
		}, 3, "keep at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, list := tree(t)
			var out strings.Builder
			if err := run(&out, root, list, true, threeSeeds); err != nil {
				t.Fatalf("write the list: %v", err)
			}
			c.change(t, root)
			err := run(&out, root, list, false, func(string, string) (map[string]int, error) {
				return map[string]int{"FuzzX": c.seeds, "FuzzY": c.seeds, "FuzzNew": c.seeds}, nil
			})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
