package awskms

import (
	"context"
	"errors"

	"github.com/aws/smithy-go"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
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

// errorCode is the code that KMS answered with, or "" for everything else: no answer, and also an answer of another
// service that was asked for credentials, whose AccessDenied says nothing about the key.
func errorCode(err error) string {
	for e := err; e != nil; {
		var op *smithy.OperationError
		if !errors.As(e, &op) {
			break
		}
		if op.Service() != "KMS" {
			return ""
		}
		e = op.Unwrap()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// brief is KMS's answer without the SDK's account of request ids and attempts; the error below stays reachable.
func brief(err error) error {
	var api smithy.APIError
	if code := errorCode(err); code != "" && errors.As(err, &api) {
		return &answered{text: code + ": " + api.ErrorMessage(), err: err}
	}
	return err
}

type answered struct {
	text string
	err  error
}

func (a *answered) Error() string { return a.text }
func (a *answered) Unwrap() error { return a.err }
