package policy

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// isToken reports whether a text is a JSON Web Token (RFC 7519): a JWS (RFC 7515) or a JWE (RFC 7516) in its compact
// form, with white space around it or behind the word of an authorization scheme, as in "Bearer eyJ...".
func isToken(text string) bool {
	words := strings.Fields(text)
	switch {
	case len(words) == 1:
		return compact(words[0])
	case len(words) == 2 && scheme(words[0]):
		return compact(words[1])
	}
	return false
}

// HasToken reports whether a text holds a JSON Web Token anywhere: in a URL, a header line, an assignment.
func HasToken(text string) bool {
	if strings.Contains(text, "=.") { // parts that are padded, against RFC 7515
		text = strings.ReplaceAll(strings.ReplaceAll(text, "==.", "."), "=.", ".")
	}
	outside := func(r rune) bool { return r != '.' && !base64URL(r) }
	for word := range strings.FieldsFuncSeq(text, outside) {
		for {
			first, rest, more := strings.Cut(word, ".")
			if !more {
				break
			}
			if strings.Contains(rest, ".") && hasAlgorithm(first) {
				return true
			}
			word = rest
		}
	}
	return false
}

// compact reports whether a text is a JWS or a JWE in its compact form: three or five parts in base64url, of which the
// first is a JSON object with an algorithm. Some of the others may be empty.
func compact(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 3 && len(parts) != 5 {
		return false
	}
	for _, part := range parts[1:] {
		part = strings.TrimRight(part, "=")
		if strings.ContainsFunc(part, func(r rune) bool { return !base64URL(r) }) {
			return false
		}
	}
	return hasAlgorithm(parts[0])
}

// maxTokenHeader bounds the first part of a token, in bytes. A longer one is no header of a token.
const maxTokenHeader = 64 << 10

// hasAlgorithm reports whether a text is a JSON object in base64url with the member "alg" (RFC 7515, section 4.1.1).
func hasAlgorithm(text string) bool {
	// The first byte of the object is a brace or white space, which gives one of four letters.
	if text == "" || !strings.ContainsRune("eICD", rune(text[0])) || len(text) > maxTokenHeader {
		return false
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return false
	}
	var header map[string]json.RawMessage
	if json.Unmarshal(raw, &header) != nil {
		return false
	}
	var algorithm string
	return json.Unmarshal(header["alg"], &algorithm) == nil && algorithm != ""
}

// base64URL reports whether a rune is in the alphabet of base64url (RFC 4648, section 5).
func base64URL(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// scheme reports whether a word may name an authorization scheme (a token of RFC 9110, section 11.1).
func scheme(word string) bool {
	const others = "!#$%&'*+-.^_`|~"
	return !strings.ContainsFunc(word, func(r rune) bool { return !base64URL(r) && !strings.ContainsRune(others, r) })
}

// tokenBuiltins are the functions that this package adds to OPA's.
var tokenBuiltins = []*ast.Builtin{
	textBuiltin("temporal.is_token", "reports whether x is a JSON Web Token", isToken),
	textBuiltin("temporal.has_token", "reports whether x is a text that holds a JSON Web Token", HasToken),
}

// textBuiltin registers a function that reports something about a text. Of any other value it reports false.
func textBuiltin(name, about string, report func(string) bool) *ast.Builtin {
	b := &ast.Builtin{Name: name, Description: about, Decl: types.NewFunction(types.Args(types.Named("x", types.A)), types.B)}
	ast.RegisterBuiltin(b)
	topdown.RegisterBuiltinFunc(name, func(_ topdown.BuiltinContext, args []*ast.Term, yield func(*ast.Term) error) error {
		text, ok := args[0].Value.(ast.String)
		return yield(ast.BooleanTerm(ok && report(string(text))))
	})
	return b
}
