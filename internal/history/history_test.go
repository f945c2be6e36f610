package history

import (
	"fmt"
	"strings"
	"testing"
)

// TestHostileDocumentsAreBounded: what a document opens to has a bound, and the places of its values take no more than its size.
func TestHostileDocumentsAreBounded(t *testing.T) {
	h := &opener{left: 100}
	if err := h.grow(60); err != nil {
		t.Error(err)
	}
	if err := h.grow(60); err == nil || !strings.Contains(err.Error(), "split the file") {
		t.Errorf("%v", err)
	}
	if err := h.grow(40); err != nil {
		t.Errorf("a refused payload takes of what is left: %v", err)
	}
	path := "$"
	for i := range 1000 {
		path = within(path, fmt.Sprintf(".name-%d", i))
	}
	if len(path) > maxPath+3 || !strings.HasPrefix(path, "$.name-0.name-1") || !strings.HasSuffix(path, "...") {
		t.Errorf("%q", path)
	}
	if got := within("$", strings.Repeat("n", 1<<20)); got != "$..." {
		t.Errorf("%.100q", got)
	}
	bad := "sealed.v1:!"
	_, _, problems := Open(t.Context(), map[string]any{strings.Repeat("k", 10_000): []any{bad, map[string]any{"a": bad}}, "b": bad}, Options{})
	if len(problems) != 3 || len(strings.Join(problems, "")) > 3*(maxPath+500) || !strings.HasPrefix(problems[0], "b: ") {
		t.Errorf("%.2000q", problems)
	}
}
