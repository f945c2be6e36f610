package awskms

import (
	"context"
	"strings"

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

// advice returns what to do about a key that cannot be looked up, where KMS's answer does not say so.
func advice(err error) string {
	switch code := errorCode(err); {
	case code == "NotFoundException":
		return "; correct the key or alias, its region and the account of the credentials, or create it"
	case code == "AccessDeniedException":
		return "; allow kms:DescribeKey, kms:GenerateDataKey and kms:Decrypt for this key, or name it by its ARN"
	case code == "" && strings.Contains(err.Error(), "get identity"): // the SDK's step before it signs a request
		return "; give the proxy AWS credentials: a role of the pod or machine, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	}
	return ""
}
