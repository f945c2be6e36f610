// Package azurekeyvault makes Azure Key Vault and Azure Managed HSM a key provider. It alone imports Azure's client;
// credentials come from the client's own search: environment, workload identity, managed identity.
//
// A key is named by azurekeyvault://<host>/keys/<name>, with these parameters, both optional:
//
//	signing_key  name of an EC key on P-256 in the same vault; required for an RSA key
//	endpoint     URL of a stand-in on this host, for tests; it gets no credentials
//
// Data keys are drawn here. There are two ways to wrap them:
//
//   - An AES key, which a Managed HSM has, encrypts them with A256GCM. Namespace and key name are additional
//     authenticated data.
//   - An RSA key encrypts them with RSA-OAEP-256. That proves nothing about who did it, since the key is public. So the
//     signing key signs, with ES256, what came out together with namespace and key name. The signature is verified here,
//     before the service is asked to decrypt.
//
// Either way the wrapped form names the versions of the keys, so that it opens after a rotation.
//
//	azurekeyvault.go  the provider, the checks of a key when it is opened
//	wrapped.go        the form of wrapped keys
//	signing.go        signatures and the public keys that verify them
//	foreign.go        keys with which Temporal's own proxy encrypted
//	uri.go            URIs and clients
//	errors.go         the kinds of the service's errors
package azurekeyvault

import (
	"context"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Scheme starts the URIs of this provider.
const Scheme = "azurekeyvault"

const (
	opOpen   = "open Azure key" // in errors
	opWrap   = "azurekeyvault.wrap"
	opUnwrap = "azurekeyvault.unwrap"
)

// Provider is one key. It is safe for concurrent use.
type Provider struct {
	uri    string
	ref    crypto.KEKRef
	loc    location
	client *azkeys.Client
	seen   crypto.Newest

	mu      sync.Mutex
	signers map[string]signer // by version
}

// Open looks at the key, and at the signing key if there is one. Newest versions that are disabled are no error, so that the
// key serves again once they are enabled: see CheckWrap.
func Open(ctx context.Context, uri string) (crypto.Provider, error) {
	loc, err := parseURI(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	p := &Provider{uri: uri, loc: loc, ref: crypto.NewKEKRef(Scheme, loc.id()), signers: make(map[string]signer)}
	if p.client, err = clientFor(loc); err != nil {
		return nil, crypto.Internalf(crypto.KindUnavailable, opOpen, "%s: %w", uri, err)
	}
	if err := p.CheckWrap(ctx); err != nil && !newestDisabled(err) {
		return nil, err
	}
	return p, nil
}

// CheckWrap returns why nothing can be wrapped now.
func (p *Provider) CheckWrap(ctx context.Context) error {
	if _, err := p.newest(ctx, opOpen, crypto.KeyContext{}); err != nil {
		return err
	}
	if p.loc.signingKey == "" {
		return nil
	}
	_, err := p.signerOf(ctx, opOpen, crypto.KeyContext{}, "")
	return err
}

// Ref is derived from the vault's host and the name of the key.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// URI is the one that the key was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey draws a data key and has it wrapped.
func (p *Provider) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	return crypto.DrawDataKey(ctx, p, kc)
}

// WrapDataKey has a data key wrapped by the newest version of the key.
func (p *Provider) WrapDataKey(ctx context.Context, plain []byte, kc crypto.KeyContext) ([]byte, error) {
	version, err := p.newest(ctx, opWrap, kc)
	if err != nil {
		return nil, err
	}
	if p.loc.signingKey != "" {
		return p.wrapSigned(ctx, version, plain, kc)
	}
	out, err := p.client.Encrypt(ctx, p.loc.key, version, azkeys.KeyOperationParameters{
		Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256GCM), Value: plain, AdditionalAuthenticatedData: p.bound(kc)}, nil)
	if err != nil {
		return nil, p.failed(ctx, opWrap, kc, p.loc.key, err)
	}
	if len(out.IV) == 0 || len(out.AuthenticationTag) != tagSize || len(out.Result) != len(plain) {
		return nil, kc.Internalf(crypto.KindNotConfigured, opWrap,
			"%s: the answer is not that of A256GCM; check that the host is a Managed HSM", p.uri)
	}
	return wrappedKey{byAES, version, out.IV, out.AuthenticationTag, out.Result}.bytes(), nil
}

// UnwrapDataKey has a data key unwrapped by the version that wrapped it, unless the newest one is disabled.
func (p *Provider) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	w, ok := parseWrapped(wrapped)
	if !ok || (w.kind == bySigned) != (p.loc.signingKey != "") {
		return nil, kc.Internalf(crypto.KindRejected, opUnwrap, "%s: this key did not wrap it", p.uri)
	}
	if err := p.seen.Disabled(ctx, p.CheckWrap, newestDisabled); err != nil {
		return nil, kc.Internalf(crypto.KindRevoked, opUnwrap, "%w", err)
	}
	if w.kind == bySigned {
		return p.unwrapSigned(ctx, w, kc)
	}
	out, err := p.client.Decrypt(ctx, p.loc.key, w.version, azkeys.KeyOperationParameters{
		Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256GCM), Value: w.last, IV: w.first, AuthenticationTag: w.second,
		AdditionalAuthenticatedData: p.bound(kc)}, nil)
	if err != nil {
		return nil, p.failed(ctx, opUnwrap, kc, p.loc.key, err)
	}
	return p.dataKey(out.Result, kc)
}

// dataKey checks what the service unwrapped.
func (p *Provider) dataKey(plain []byte, kc crypto.KeyContext) ([]byte, error) {
	if len(plain) != crypto.DataKeySize {
		clear(plain)
		return nil, kc.Internalf(crypto.KindRejected, opUnwrap, "%s: the unwrapped bytes are not a data key", p.uri)
	}
	return plain, nil
}

// bound is what a wrapped data key is bound to.
func (p *Provider) bound(kc crypto.KeyContext) []byte {
	return kc.AssociatedData("temporal-seal/v1/" + p.loc.id() + "\x00")
}

// newest returns the newest version of the key, if that may wrap data keys.
func (p *Provider) newest(ctx context.Context, op string, kc crypto.KeyContext) (version string, err error) {
	out, err := p.client.GetKey(ctx, p.loc.key, "", nil)
	if err != nil {
		return "", p.failed(ctx, op, kc, p.loc.key, err)
	}
	wrong := func(kind crypto.Kind, text string) (string, error) {
		return "", kc.Internalf(kind, op, "%s: %s", p.uri, text)
	}
	version, known := versionOf(out.KeyBundle)
	if !known {
		return wrong(crypto.KindNotConfigured, "the answer describes no key; check that the host is a Key Vault or a Managed HSM")
	}
	switch kind := *out.Key.Kty; {
	case kind == azkeys.KeyTypeRSA || kind == azkeys.KeyTypeRSAHSM:
		if p.loc.signingKey == "" {
			return wrong(crypto.KindNotConfigured, "everybody can wrap a data key with an RSA key, which is public; "+
				"name an EC key on P-256 of the same vault: add ?signing_key=<name>")
		}
	case kind == azkeys.KeyTypeOct || kind == azkeys.KeyTypeOctHSM:
		if p.loc.signingKey != "" {
			return wrong(crypto.KindNotConfigured, "an AES key needs no signing_key; leave it out")
		}
	default:
		return wrong(crypto.KindNotConfigured, "a key of type "+string(kind)+" cannot wrap data keys; name an AES or RSA key")
	}
	if disabled(out.KeyBundle) {
		return "", kc.Internalf(crypto.KindDenied, op, "%s: %w", p.uri, errDisabled)
	}
	return version, nil
}
