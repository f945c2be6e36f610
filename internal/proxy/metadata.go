package proxy

import (
	"context"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/temporal-seal/temporal-seal/internal/caller"
)

// hopHeaders belong to one connection, or are made anew by gRPC on the next. Everything else is forwarded as it came.
var hopHeaders = []string{":authority", "content-type", "user-agent", "grpc-accept-encoding", "grpc-encoding", "grpc-timeout", "te"}

// outgoing turns what the caller sent into what the upstream gets.
func outgoing(ctx context.Context, incoming metadata.MD, credential string, c *UpstreamConfig, namespace string) context.Context {
	for _, h := range hopHeaders {
		delete(incoming, h)
	}
	if credential != "" {
		delete(incoming, credential) // it was meant for the proxy
	}
	if c.APIKey != nil {
		delete(incoming, "authorization")
		if namespace != "" && len(incoming["temporal-namespace"]) == 0 {
			// Temporal Cloud routes API keys by it. Headers are written after this returns, the request's bytes may be
			// gone by then.
			incoming["temporal-namespace"] = []string{strings.Clone(namespace)}
		}
	}
	return metadata.NewOutgoingContext(ctx, incoming)
}

// answered strips from an answer's headers or trailers what gRPC writes itself.
func answered(md metadata.MD) metadata.MD {
	for _, h := range hopHeaders {
		delete(md, h)
	}
	delete(md, "grpc-status-details-bin") // the status, perhaps rewritten, brings its own
	return md
}

// shown is what the caller of a gRPC method shows of itself.
func shown(ctx context.Context, md metadata.MD) caller.Shown {
	s := caller.Shown{Headers: md}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			s.TLS = &info.State
		}
	}
	return s
}
