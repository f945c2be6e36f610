package rewrite

import (
	"context"
	"fmt"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Endpoints returns the namespace to which a Nexus endpoint leads, and reports whether it is known. The name may alias a
// message.
type Endpoints func(ctx context.Context, endpoint string) (namespace string, known bool)

// endpoint returns the namespace to which an endpoint leads, and reports whether it is known.
func (c *call) endpoint(ctx context.Context, name []byte) (namespace string, known bool) {
	if c.leadsTo == nil {
		return "", false
	}
	return c.leadsTo(ctx, alias(name))
}

// reachesEndpoint returns an error if a scope calls an operation in a namespace that the caller does not reach, or that is
// not known. The error does not name the namespace, which the caller may not know.
func (c *call) reachesEndpoint(ctx context.Context, w *walk, sc *scope) error {
	if !sc.calls(w.buf) {
		return nil
	}
	name := sc.endpoint.of(w.buf)
	target, known := c.endpoint(ctx, name)
	switch {
	case !known:
		return c.fail(KindDenied, "endpoint", fmt.Errorf("it is not known to which namespace the Nexus endpoint %.200q leads, and this "+
			"caller reaches certain namespaces only: name the endpoint's namespace in `nexus_endpoints` of the proxy's config", name))
	case target != c.namespace && !c.reaches(target):
		return c.fail(KindDenied, "endpoint", fmt.Errorf("the Nexus endpoint %.200q leads to a namespace that this caller does not reach", name))
	}
	return nil
}

// unknownTarget returns the verdict on a payload that the server copies to a namespace whose policy is not known: nothing of
// it stays readable. Texts, which the server reads, cannot be sealed: the rules of the request's namespace decide about them.
func (d *decider) unknownTarget(own policy.Verdict, s *slot) (policy.Verdict, error) {
	switch {
	case s.f.op == opReadable:
	case own.Action.Seals():
		own.Fields, own.Clear = nil, nil
	case own.Action == policy.Pass:
		key, ok := d.call.state.Keys.DefaultKey(d.call.namespace)
		if !ok {
			return own, d.call.fail(KindDenied, s.f.path, fmt.Errorf("it is not known to which namespace its Nexus endpoint leads, so it "+
				"does not pass in clear, and no key seals it in the namespace %q: add the namespace to an entry of `keys`, or name the "+
				"endpoint's namespace in `nexus_endpoints` of the proxy's config", d.call.namespace))
		}
		own = policy.Verdict{Action: policy.Seal, Key: key, Hit: own.Hit}
	}
	return own, nil
}
