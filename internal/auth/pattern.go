package auth

import "strings"

// MatchAny compares with patterns in which `*` stands for any run of characters.
func MatchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if matchPattern(p, name) {
			return true
		}
	}
	return false
}

func matchPattern(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, middle := range parts[1 : len(parts)-1] {
		at := strings.Index(name, middle)
		if at < 0 {
			return false
		}
		name = name[at+len(middle):]
	}
	return true
}
