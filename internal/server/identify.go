package server

import (
	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// identify finds out which namespace the call is for, and what else policies, spans and records name.
func (c *call) identify() error {
	c.session = c.server.rewriter.Begin(c.method.rewrite, c.id.Caller)
	c.lease.session = c.session
	c.session.CountIn(c.lease)
	if name := c.headers.Get("client-name"); len(name) == 1 && readers[name[0]] {
		rewrite.ShowErased(c.session)
	}
	m := c.method.rewrite
	if m.RequestTouched() || m.ResponseTouched() || m.IsPoll() ||
		c.id.Namespaces != nil || c.server.upstreams.ByNamespace() || c.span.IsRecording() {
		c.request = c.in.Bytes()
		if err := c.session.Identify(c.request); err != nil {
			return err
		}
		if n := len(c.session.Namespace()); n > auth.MaxNamespace { // before it reaches a log, a cache or a policy
			return newRefusal(codes.InvalidArgument, "the name of the namespace has %d bytes, and %d are the most", n, auth.MaxNamespace)
		}
	}
	return nil
}

// readers are the clients that show histories to people. SDKs replay them.
var readers = map[string]bool{"temporal-ui": true, "temporal-cli": true}
