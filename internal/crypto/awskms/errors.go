package awskms

import (
	"context"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awsclient"
)

// failed turns an SDK error into one of ours. KMSInvalidStateException covers states that were chosen (disabled,
// pending deletion) and states that pass (creating, key store disconnected): DescribeKey shows which it is.
func (p *Provider) failed(ctx context.Context, op string, kc crypto.KeyContext, err error) error {
	kind := kindOf(err)
	if errorCode(err) == "KMSInvalidStateException" {
		if meta, describeErr := p.describe(ctx); describeErr == nil && withdrawn(meta.KeyState) {
			kind = crypto.KindRevoked
		}
	}
	if op == "kms.generate_data_key" && kind == crypto.KindRejected {
		kind = crypto.KindNotConfigured
	}
	return kc.Internalf(kind, op, "%s: %w", p.uri, brief(err))
}

// kindOf sorts AWS's errors. What is not known counts as unavailable: no key is dropped and no payload given up for a
// reason that is not understood.
func kindOf(err error) crypto.Kind {
	switch errorCode(err) {
	case "DisabledException", "NotFoundException":
		return crypto.KindRevoked
	case "AccessDeniedException":
		return crypto.KindDenied
	case "InvalidCiphertextException", "IncorrectKeyException", "IncorrectKeyMaterialException", "InvalidKeyUsageException",
		"ValidationException", "UnsupportedOperationException", "InvalidArnException":
		return crypto.KindRejected
	}
	return crypto.KindUnavailable
}

// serviceName is KMS's name in the SDK's errors.
const serviceName = "KMS"

func errorCode(err error) string { return awsclient.ErrorCode(serviceName, err) }

func brief(err error) error { return awsclient.Brief(serviceName, err) }
