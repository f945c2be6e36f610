package server

import (
	"context"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// hopHeaders belong to one connection, or are made anew by gRPC on the next. Everything else is forwarded as it came.
var hopHeaders = []string{":authority", "content-type", "user-agent", "grpc-accept-encoding", "grpc-encoding", "grpc-timeout", "te"}

const namespaceHeader = "temporal-namespace"

// outgoing turns what the caller sent into what the upstream gets.
func outgoing(ctx context.Context, incoming metadata.MD, credential string, c *upstream.Config, namespace string) context.Context {
	for _, h := range hopHeaders {
		delete(incoming, h)
	}
	if credential != "" && !c.PassCredential {
		delete(incoming, credential) // it was meant for the proxy
	}
	if c.APIKey != nil {
		delete(incoming, "authorization")
		delete(incoming, "authorization-extras")
	}
	if len(incoming[namespaceHeader]) > 0 || c.APIKey != nil {
		// Temporal Cloud routes API keys by it, so it names the namespace that was checked, whatever the caller put there.
		delete(incoming, namespaceHeader)
		if namespace != "" {
			// Headers are written after this returns, the request's bytes may be gone by then.
			incoming[namespaceHeader] = []string{strings.Clone(namespace)}
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
func shown(ctx context.Context, md metadata.MD) auth.Shown {
	s := auth.Shown{Headers: md}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			s.TLS = &info.State
		}
	}
	return s
}
