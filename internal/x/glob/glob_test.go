package glob_test

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "x", true}, {"a*", "a", true}, {"a*", "ba", false},
		{"*.a1", "x.a1", true}, {"*.a1", "a1", false}, {"ab*ba", "aba", false}, {"ab*ba", "abba", true},
		{"a*b*c", "axxbyyc", true}, {"a*b*c", "acb", false}, {"a**c", "ac", true}, {"*b*", "abc", true}, {"*b*", "ac", false},
		{"", "", true}, {"", "a", false}, {"a*a", "a", false}, {"*a*a", "ba", false}, {"*ab*ab", "xababab", true}, {"a.c", "abc", false},
	} {
		if got := glob.Match(c.pattern, c.name); got != c.want {
			t.Errorf("%q on %q: got %v", c.pattern, c.name, got)
		}
	}
}

func TestMatchAny(t *testing.T) {
	patterns := []string{"a", "b*"}
	for name, want := range map[string]bool{"a": true, "bc": true, "ab": false, "": false} {
		if got := glob.MatchAny(patterns, name); got != want {
			t.Errorf("%q: got %v", name, got)
		}
	}
	if glob.MatchAny(nil, "") {
		t.Error("no pattern matches the empty name")
	}
}
