package auth

import "testing"

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "x", true}, {"a*", "a", true}, {"a*", "ba", false},
		{"*.a1", "x.a1", true}, {"*.a1", "a1", false}, {"ab*ba", "aba", false}, {"ab*ba", "abba", true},
		{"a*b*c", "axxbyyc", true}, {"a*b*c", "acb", false}, {"a**c", "ac", true}, {"*b*", "abc", true}, {"*b*", "ac", false},
	} {
		if got := matchPattern(c.pattern, c.name); got != c.want {
			t.Errorf("%q on %q: got %v", c.pattern, c.name, got)
		}
	}
}
