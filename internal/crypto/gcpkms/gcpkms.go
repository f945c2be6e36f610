// Package gcpkms makes Google Cloud KMS a key provider. It alone imports Google's client; credentials come from the
// client's own search: GOOGLE_APPLICATION_CREDENTIALS, workload identity, the metadata server.
//
// A key is named by gcpkms://projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>. It has to be symmetric, for
// encryption, and may be kept in software, in an HSM, or outside of Google. One parameter, endpoint=<URL>, names another
// place of the service; plain http is for this host only, and sends no credentials.
//
// Data keys are drawn here and encrypted there, with namespace and key name as additional authenticated data. Each
// request and each answer has a checksum, as Google's documents ask for.
//
//	gcpkms.go  the provider, the checks of a key when it is opened
//	uri.go     URIs and clients
//	errors.go  the kinds of the service's errors
package gcpkms

import (
	"context"
	"hash/crc32"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Scheme starts the URIs of this provider.
const Scheme = "gcpkms"

// label starts the associated data of wrapped data keys.
const label = "temporal-seal/v1/gcpkms\x00"

const (
	opOpen    = "open Google KMS key" // in errors
	opEncrypt = "gcpkms.encrypt"
	opDecrypt = "gcpkms.decrypt"
)

// Provider is one key. It is safe for concurrent use.
type Provider struct {
	uri    string
	ref    crypto.KEKRef
	name   string // of the resource
	client *kms.KeyManagementClient
	seen   crypto.Newest
}

// Open looks at the key, if that is permitted. A primary version that is disabled or destroyed is no error, so that the key serves again
// once it is enabled: see CheckWrap.
func Open(ctx context.Context, uri string) (crypto.Provider, error) {
	loc, err := parseURI(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	p := &Provider{uri: uri, name: loc.name, ref: crypto.NewKEKRef(Scheme, loc.name)}
	if p.client, err = clientFor(ctx, loc); err != nil {
		return nil, crypto.Internalf(crypto.KindUnavailable, opOpen, "%s: %w", uri, err)
	}
	if err := p.CheckWrap(ctx); err != nil && crypto.KindOf(err) != crypto.KindDenied {
		return nil, err
	}
	return p, nil
}

// CheckWrap returns why nothing can be encrypted now, as far as it may look at the key. A primary version that is disabled or destroyed
// is an error of kind KindDenied.
func (p *Provider) CheckWrap(ctx context.Context) error {
	key, err := p.client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: p.name})
	if err != nil {
		// Looking at a key needs a permission of its own.
		if err = p.failed(ctx, opOpen, crypto.KeyContext{}, err); crypto.KindOf(err) == crypto.KindDenied {
			err = nil
		}
		return err
	}
	if key.Purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		return crypto.Internalf(crypto.KindNotConfigured, opOpen,
			"%s: a key for %s cannot encrypt data keys; name one with the purpose ENCRYPT_DECRYPT", p.uri, key.Purpose)
	}
	if state := key.GetPrimary().GetState(); withdrawn(state) {
		return crypto.Internalf(crypto.KindDenied, opOpen,
			"%s: the primary version's state is %s; enable it or make another one primary", p.uri, state)
	}
	return nil
}

// Ref is derived from the name of the resource.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// URI is the one that the key was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey draws a data key and has it encrypted.
func (p *Provider) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	return crypto.DrawDataKey(ctx, p, kc)
}

// WrapDataKey has a data key encrypted by the primary version.
func (p *Provider) WrapDataKey(ctx context.Context, plain []byte, kc crypto.KeyContext) ([]byte, error) {
	aad := kc.AssociatedData(label)
	out, err := p.client.Encrypt(ctx, &kmspb.EncryptRequest{Name: p.name,
		Plaintext: plain, PlaintextCrc32C: checksum(plain),
		AdditionalAuthenticatedData: aad, AdditionalAuthenticatedDataCrc32C: checksum(aad)})
	switch {
	case err != nil:
		return nil, p.failed(ctx, opEncrypt, kc, err)
	case !out.VerifiedPlaintextCrc32C || !out.VerifiedAdditionalAuthenticatedDataCrc32C,
		len(out.Ciphertext) == 0, !intact(out.Ciphertext, out.CiphertextCrc32C):
		return nil, p.damaged(opEncrypt, kc)
	}
	return out.Ciphertext, nil
}

// UnwrapDataKey has a data key decrypted by the version that encrypted it, unless the primary version is disabled or destroyed.
func (p *Provider) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	denied := func(err error) bool { return crypto.KindOf(err) == crypto.KindDenied }
	if err := p.seen.Disabled(ctx, p.CheckWrap, denied); err != nil {
		return nil, kc.Internalf(crypto.KindRevoked, opDecrypt, "%w", err)
	}
	return p.decrypt(ctx, wrapped, kc.AssociatedData(label), kc)
}

// OpenForeign opens a key with which another tool encrypted data keys, without additional authenticated data.
func OpenForeign(ctx context.Context, uri string) (crypto.Decrypter, error) {
	p, err := Open(ctx, uri)
	if err != nil {
		return nil, err
	}
	return p.(*Provider), nil
}

// Decrypt decrypts a data key of another tool, none of which is known to bind a context.
func (p *Provider) Decrypt(ctx context.Context, wrapped []byte, _ map[string]string) ([]byte, error) {
	return p.decrypt(ctx, wrapped, nil, crypto.KeyContext{})
}

func (p *Provider) decrypt(ctx context.Context, wrapped, aad []byte, kc crypto.KeyContext) ([]byte, error) {
	out, err := p.client.Decrypt(ctx, &kmspb.DecryptRequest{Name: p.name,
		Ciphertext: wrapped, CiphertextCrc32C: checksum(wrapped),
		AdditionalAuthenticatedData: aad, AdditionalAuthenticatedDataCrc32C: checksum(aad)})
	switch {
	case err != nil:
		return nil, p.failed(ctx, opDecrypt, kc, err)
	case !intact(out.Plaintext, out.PlaintextCrc32C):
		clear(out.Plaintext)
		return nil, p.damaged(opDecrypt, kc)
	case len(out.Plaintext) != crypto.DataKeySize:
		clear(out.Plaintext)
		return nil, kc.Internalf(crypto.KindRejected, opDecrypt, "%s: the unwrapped bytes are not a data key", p.uri)
	}
	return out.Plaintext, nil
}

// damaged is the error of a checksum that does not fit. Another call may go well.
func (p *Provider) damaged(op string, kc crypto.KeyContext) error {
	return kc.Internalf(crypto.KindUnavailable, op,
		"%s: a checksum does not fit: the request or the answer was damaged on its way, or comes from no Google KMS", p.uri)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// intact reports whether an answer's checksum is there and fits.
func intact(b []byte, sum *wrapperspb.Int64Value) bool {
	return sum != nil && sum.Value == checksum(b).Value
}

// withdrawn reports whether a state was chosen, and does not pass by itself. Versions that are generated or imported
// become enabled.
func withdrawn(state kmspb.CryptoKeyVersion_CryptoKeyVersionState) bool {
	switch state {
	case kmspb.CryptoKeyVersion_DISABLED, kmspb.CryptoKeyVersion_DESTROYED, kmspb.CryptoKeyVersion_DESTROY_SCHEDULED,
		kmspb.CryptoKeyVersion_PENDING_EXTERNAL_DESTRUCTION, kmspb.CryptoKeyVersion_EXTERNAL_DESTRUCTION_FAILED:
		return true
	}
	return false
}
