package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// handsOut tells if the answer to a method may hold tasks.
func handsOut(m *rewrite.Method) bool {
	return m.IsPoll() || m.Name() == "RespondWorkflowTaskCompleted" || m.Name() == "StartWorkflowExecution"
}

// openAnswer opens an answer. What comes with it of tasks that cannot be opened is answered in their workers' stead,
// and left out. out has the metadata to answer with.
func (c *call) openAnswer(ctx, out context.Context, sealed []byte) ([]byte, error) {
	if !handsOut(c.method.rewrite) {
		plain, err := c.rewriting.Response(ctx, sealed)
		if err != nil {
			c.server.metrics.failed(directionResponse, err)
			return nil, err
		}
		return plain, c.record(ctx, codes.OK)
	}
	r := &rescue{call: c, arrived: time.Now(), longest: longestHold}
	first, cancel := context.WithTimeout(ctx, firstOpening)
	plain, err := c.rewriting.Response(first, sealed)
	cancel()
	if err == nil {
		if err = c.record(ctx, codes.OK); err == nil {
			return plain, nil
		}
	}
	c.server.metrics.failed(directionResponse, err)
	c.withhold()
	md, _ := metadata.FromOutgoingContext(out)
	if plain, err = r.run(metadata.NewOutgoingContext(ctx, md), sealed, err); err != nil {
		return nil, err
	}
	return plain, c.record(ctx, codes.OK)
}
