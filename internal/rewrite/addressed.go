package rewrite

import (
	"context"
	"fmt"
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// A workflow may start a child or signal a workflow in another namespace. The
// server copies the payload there, so it has to satisfy both policies: that of
// the namespace it comes from, whose key seals it, and that of the one it is
// addressed to.

// addressed gives the namespace that a command sends a slot's payload to; ""
// if it is the request's own.
func (c *Call) addressed(s *slot) string {
	w := &c.walk
	for i := s.scope; i >= 0; i = w.scopes[i].parent {
		if at := w.scopes[i].namespace; !at.empty() {
			if name := alias(at.of(w.buf)); name != c.namespace {
				return name
			}
			return ""
		}
	}
	return ""
}

// decideRequestSlot asks the policy about a slot, and that of the namespace
// which the payload is addressed to.
func (c *Call) decideRequestSlot(ctx context.Context, s *slot, h head) (policy.Verdict, error) {
	own, err := c.decide(ctx, policy.Request, s, h)
	if err != nil || own.Action == policy.Deny {
		return own, err
	}
	target := c.addressed(s)
	if target == "" {
		return own, nil
	}
	c.in.Namespace = target
	theirs, err := c.decide(ctx, policy.Request, s, h)
	c.in.Namespace = c.namespace
	if err != nil {
		return own, err
	}
	return c.both(own, theirs, target, s)
}

// both gives the stricter of two verdicts. Whatever is sealed is sealed with a
// key of the request's namespace.
func (c *Call) both(own, theirs policy.Verdict, target string, s *slot) (policy.Verdict, error) {
	hit := own.Hit && theirs.Hit
	switch {
	case theirs.Action == policy.Deny:
		own = theirs
		own.Reason = fmt.Sprintf("%s (by the policy of the namespace %q, to which it is addressed)", theirs.Reason, target)
	case theirs.Action == policy.Redact && own.Action == policy.Pass:
		own = theirs
	case theirs.Action == policy.Seal && own.Action == policy.Pass:
		key, ok := c.r.keys.DefaultKey(c.namespace)
		if !ok {
			return own, c.fail(KindDenied, s.f.path, fmt.Errorf("the policy of the namespace %q, to which it is addressed, wants it sealed, "+
				"and no key serves the namespace %q", target, c.namespace))
		}
		own = theirs
		own.Key = key
	case theirs.Action == policy.Seal && own.Action == policy.Seal:
		own.Compress = own.Compress && theirs.Compress // lengths tell more then, so both have to want it
		if !slices.Equal(own.Fields, theirs.Fields) || !slices.Equal(own.Clear, theirs.Clear) {
			own.Fields, own.Clear = nil, nil // two choices of members: the whole payload satisfies both
		}
	}
	own.Hit = hit
	return own, nil
}
