package policy

import (
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

func TestNamedBuiltins(t *testing.T) {
	has := func(c *ast.Capabilities, name string) bool {
		return slices.ContainsFunc(c.Builtins, func(b *ast.Builtin) bool { return b.Name == name })
	}
	for _, b := range capabilities.Builtins {
		files := Sources{{words: words([]byte("package temporal\n\np if 1 in {1}"))}, {words: words([]byte("q if " + b.Name + "(input.x, _)"))}}
		if !has(files.named(), b.Name) {
			t.Errorf("a file that names %s is compiled without it", b.Name)
		}
	}
	few := Sources{{words: words([]byte(`request contains {"action": "pass"} if input.workflow.type in {"Ping"}`))}}.named()
	if len(few.Builtins) > len(capabilities.Builtins)/4 || has(few, "json.marshal") {
		t.Errorf("a file that names no builtin is compiled with %d of %d", len(few.Builtins), len(capabilities.Builtins))
	}
}
