package detect

import (
	"math"
	"strings"
)

// looksRandom reports whether a text is one word that looks as if a machine had drawn it: capital letters, small ones and
// digits in the shares and with the entropy of base64. Hexadecimal digits and UUIDs are left out: nearly all of
// them are identifiers and hashes.
func looksRandom(text string) bool {
	if len(text) < 24 || len(text) > 512 || hashPrefix(text) {
		return false
	}
	var count [256]int
	var capitals, small, numerals int
	for i := range len(text) {
		c := text[i]
		switch {
		case upper(c):
			capitals++
		case letter(c):
			small++
		case digit(c):
			numerals++
		case !base64Any(c) && c != '.':
			return false
		}
		count[c]++
	}
	n := len(text)
	if capitals*7 < n || small*7 < n || numerals*10 < n {
		return false
	}
	entropy := 0.0
	for _, k := range count {
		if k > 0 {
			share := float64(k) / float64(n)
			entropy -= share * math.Log2(share)
		}
	}
	return entropy >= 0.85*math.Log2(float64(min(n, 64)))
}

// hashPrefix reports whether a text names a hash function before its digits, as go.sum and package locks do.
func hashPrefix(text string) bool {
	for _, prefix := range []string{"h1:", "sha1-", "sha256-", "sha384-", "sha512-", "sha256:", "SHA256:", "md5-"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}
