package server

// identify finds out which namespace the call is for, and what else policies, spans and records name.
func (c *call) identify() error {
	c.session = c.server.rewriter.Begin(c.method.rewrite, c.id.Caller)
	c.lease.session = c.session
	c.session.CountIn(c.lease)
	m := c.method.rewrite
	if m.RequestTouched() || m.ResponseTouched() || m.IsPoll() ||
		c.id.Namespaces != nil || c.server.upstreams.ByNamespace() || c.span.IsRecording() {
		c.request = c.in.Bytes()
		return c.session.Identify(c.request)
	}
	return nil
}
