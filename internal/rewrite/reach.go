package rewrite

import (
	"fmt"
)

// Restrict has Request refuse what acts in another namespace than the call's,
// unless reaches says that the caller gets there: a child started there, a
// signal or a cancellation sent there, an operation within a
// multi-operation. The server acts on them with rights of its own.
func (c *Call) Restrict(reaches func(namespace string) bool) { c.reaches = reaches }

// withinReach looks at each namespace that the walked request addresses.
// Messages that only tell of another namespace, such as links, hold nothing
// to seal and are not among them.
func (c *Call) withinReach() error {
	if c.reaches == nil || c.walk.response {
		return nil
	}
	w := &c.walk
	for i := range w.scopes {
		name := w.scopes[i].namespace
		if name.empty() || string(name.of(w.buf)) == c.namespace || c.reaches(string(name.of(w.buf))) {
			continue
		}
		return c.fail(KindDenied, "namespace", fmt.Errorf("it acts in the namespace %q, which this caller does not reach", name.of(w.buf)))
	}
	return nil
}
