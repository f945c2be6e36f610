package server

import (
	"context"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

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
