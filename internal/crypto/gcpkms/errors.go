package gcpkms

import (
	"context"
	"fmt"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// failed turns an error of the client into one of ours.
func (p *Provider) failed(ctx context.Context, op string, kc crypto.KeyContext, err error) error {
	s, answered := status.FromError(err)
	if !answered {
		return kc.Internalf(crypto.KindUnavailable, op, "%s: %w", p.uri, err)
	}
	kind := kindOf(op, s)
	if s.Code() == codes.FailedPrecondition {
		kind = p.ofVersion(ctx, op, kind)
	}
	return kc.Internalf(kind, op, "%s: %w", p.uri, &answer{fmt.Sprintf("%s: %s", s.Code(), s.Message()), err})
}

// answer is the service's answer without the client's account of it; the error below stays reachable.
type answer struct {
	text string
	err  error
}

func (a *answer) Error() string { return a.text }
func (a *answer) Unwrap() error { return a.err }

// kindOf sorts the service's errors. What is not known counts as unavailable: no key is dropped and no payload given up for
// a reason that is not understood.
func kindOf(op string, s *status.Status) crypto.Kind {
	switch s.Code() {
	case codes.PermissionDenied:
		// Billing that stopped, a service that is switched off, or scopes say nothing about the key.
		if reason := reasonOf(s); reason != "" && reason != "IAM_PERMISSION_DENIED" {
			return crypto.KindUnavailable
		}
		return crypto.KindDenied
	case codes.NotFound:
		return crypto.KindRevoked
	case codes.InvalidArgument:
		switch {
		case strings.Contains(strings.ToLower(s.Message()), "crc32c"): // the request was damaged on its way
			return crypto.KindUnavailable
		case op == opDecrypt:
			return crypto.KindRejected
		}
		return crypto.KindNotConfigured
	case codes.FailedPrecondition:
		// "<version> is not enabled, current state is: DISABLED." Other states pass by themselves, and external key
		// managers that are away answer with this code too.
		for _, state := range []string{"DISABLED", "DESTROYED", "DESTROY_SCHEDULED"} {
			if strings.Contains(s.Message(), "state is: "+state) {
				return crypto.KindRevoked
			}
		}
	}
	return crypto.KindUnavailable
}

func reasonOf(s *status.Status) string {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

// ofVersion returns what it means for the key that one of its versions is not enabled. kind is KindRevoked if the answer names a
// state that was chosen. The primary version shows it: an old one may be disabled by itself.
func (p *Provider) ofVersion(ctx context.Context, op string, kind crypto.Kind) crypto.Kind {
	key, err := p.client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: p.name})
	chosen := kind == crypto.KindRevoked
	switch primary := err == nil && withdrawn(key.GetPrimary().GetState()); {
	case op == opEncrypt && (chosen || primary): // other versions may go on decrypting
		return crypto.KindDenied
	case primary, status.Code(err) == codes.NotFound:
		return crypto.KindRevoked
	case chosen && (err == nil || status.Code(err) == codes.PermissionDenied):
		return crypto.KindDenied
	}
	return crypto.KindUnavailable
}
