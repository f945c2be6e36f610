package main

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// visible writes texts that a server, a caller or a file may have chosen, such as ids of workflows: characters
// that control a terminal, or reverse the direction of a text, are written as \u and four digits. That means the
// same where they stand in a JSON string.
type visible struct {
	to    io.Writer
	color bool // let the sequences of style pass
}

// Write writes all of p.
func (v visible) Write(p []byte) (int, error) {
	var out []byte
	kept := 0 // bytes of p that are in out
	for i := 0; i < len(p); {
		r, size := utf8.DecodeRune(p[i:])
		if n := v.sequence(p[i:]); n > 0 {
			size = n
		} else if r == utf8.RuneError && size == 1 || unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			if r == utf8.RuneError {
				r = rune(p[i])
			}
			out = fmt.Appendf(append(out, p[kept:i]...), `\u%04x`, r)
			kept = i + size
		}
		i += size
	}
	if out == nil {
		return v.to.Write(p)
	}
	if _, err := v.to.Write(append(out, p[kept:]...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// sequence is the length of a sequence of style that p begins with.
func (v visible) sequence(p []byte) int {
	if !v.color || len(p) < 4 || p[0] != '\x1b' || p[1] != '[' {
		return 0
	}
	for _, code := range []string{"0m", "1m", "2m", "31m", "32m", "33m"} {
		if n := 2 + len(code); len(p) >= n && string(p[2:n]) == code {
			return n
		}
	}
	return 0
}
