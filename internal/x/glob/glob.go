// Package glob matches names against patterns in which each `*` stands for any run of characters, the empty
// one too. There is no other special character, and a pattern has to match the whole name.
package glob

import "strings"

// Match reports whether the pattern matches the name.
func Match(pattern, name string) bool {
	head, rest, more := strings.Cut(pattern, "*")
	if !more {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, head)
	if !ok {
		return false
	}
	for {
		var part string
		part, rest, more = strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		// The first place is as good as any later one: it leaves the most for what follows.
		_, name, ok = strings.Cut(name, part)
		if !ok {
			return false
		}
	}
}

// MatchAny reports whether one of the patterns matches the name.
func MatchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if Match(p, name) {
			return true
		}
	}
	return false
}
