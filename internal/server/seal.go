package server

import (
	"context"
	"time"
)

// seal gives the frame to forward: the one that came, if nothing in it changes.
func (c *call) seal(ctx context.Context, in *frame) (*frame, error) {
	if c.method.rewrite.RequestTouched() {
		start := time.Now()
		out, err := c.rewriting.Request(ctx, c.in)
		if err != nil {
			c.server.metrics.failed(directionRequest, err)
			return nil, err
		}
		stats := c.rewriting.RequestStats()
		c.server.metrics.rewritten(directionRequest, stats, time.Since(start), c.span)
		describeRewriting(c.span, directionRequest, stats)
		if !same(out, c.in) {
			return c.release.lend(out), nil
		}
	}
	in.data.Ref() // one reference goes to gRPC, the other stays until the call's end: names alias the request
	return &frame{data: in.data}, nil
}

// same tells if two slices are the same bytes in memory.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
