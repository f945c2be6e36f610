package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

func TestNamedBuiltins(t *testing.T) {
	has := func(c *ast.Capabilities, name string) bool {
		return slices.ContainsFunc(c.Builtins, func(b *ast.Builtin) bool { return b.Name == name })
	}
	file := func(body string) source {
		text := []byte("package temporal\n\n" + body)
		m, err := parseModule("policy.rego", text)
		if err != nil {
			t.Fatal(err)
		}
		return source{words: words(m, text)}
	}
	none := file(`request contains {"action": "pass"} if input.workflow.type in {"Ping"}`)
	for _, b := range capabilities.Builtins {
		call := file("q := " + b.Name + "(input.x)")
		if strings.HasPrefix(b.Name, "internal.") {
			call = none
		}
		if files := (Sources{none, call}); !has(files.named(), b.Name) {
			t.Errorf("a file that names %s is compiled without it", b.Name)
		}
	}
	for _, spelled := range []string{`json["marshal"](input.x)`, `json["\u006darshal"](input.x)`, "json[`marshal`](input.x)"} {
		if files := (Sources{none, file("q := " + spelled)}); !has(files.named(), "json.marshal") {
			t.Errorf("%s is compiled without the builtin", spelled)
		}
	}
	few := Sources{none}.named()
	if len(few.Builtins) > len(capabilities.Builtins)/4 || has(few, "json.marshal") {
		t.Errorf("a file that names no builtin is compiled with %d of %d", len(few.Builtins), len(capabilities.Builtins))
	}
}
