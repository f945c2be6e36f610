package azurekeyvault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	coordinateSize = 32 // of P-256

	// signerLife is how long a version of the signing key is trusted before it is looked at again: it may be disabled.
	signerLife = time.Minute
)

// signer is a version of the signing key.
type signer struct {
	version string
	public  *ecdsa.PublicKey
	at      time.Time // when the service described it
}

// wrapSigned has a data key encrypted by the RSA key, and signed with what it is bound to.
func (p *Provider) wrapSigned(ctx context.Context, version string, plain []byte, kc crypto.KeyContext) ([]byte, error) {
	signer, err := p.signerOf(ctx, opWrap, kc, "")
	if err != nil {
		return nil, err
	}
	out, err := p.client.WrapKey(ctx, p.loc.key, version, azkeys.KeyOperationParameters{
		Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: plain}, nil)
	if err != nil {
		return nil, p.failed(ctx, opWrap, kc, p.loc.key, err)
	}
	w := wrappedKey{kind: bySigned, version: version, first: []byte(signer.version), second: out.Result}
	digest := p.digest(w, kc)
	signed, err := p.client.Sign(ctx, p.loc.signingKey, signer.version, azkeys.SignParameters{
		Algorithm: to.Ptr(azkeys.SignatureAlgorithmES256), Value: digest}, nil)
	if err != nil {
		return nil, p.failed(ctx, opWrap, kc, p.loc.signingKey, err)
	}
	w.last = signed.Result
	if !signer.signed(digest, w.last) {
		return nil, kc.Internalf(crypto.KindNotConfigured, opWrap,
			"%s: the signature is not that of the signing key; check that the host is a Key Vault or a Managed HSM", p.uri)
	}
	return w.bytes(), nil
}

// unwrapSigned verifies the signature before it has anything decrypted.
func (p *Provider) unwrapSigned(ctx context.Context, w wrappedKey, kc crypto.KeyContext) ([]byte, error) {
	signer, err := p.signerOf(ctx, opUnwrap, kc, string(w.first))
	if err != nil {
		return nil, err
	}
	if !signer.signed(p.digest(w, kc), w.last) {
		return nil, kc.Internalf(crypto.KindRejected, opUnwrap,
			"%s: the signing key did not sign this wrapped data key for this namespace and key name", p.uri)
	}
	out, err := p.client.UnwrapKey(ctx, p.loc.key, w.version, azkeys.KeyOperationParameters{
		Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: w.second}, nil)
	if err != nil {
		return nil, p.failed(ctx, opUnwrap, kc, p.loc.key, err)
	}
	return p.dataKey(out.Result, kc)
}

// digest is what is signed: what the data key is bound to, the version that wrapped it, and the ciphertext.
func (p *Provider) digest(w wrappedKey, kc crypto.KeyContext) []byte {
	sum := sha256.Sum256(append(p.bound(kc), w.unsigned()...))
	return sum[:]
}

// signed reports whether a signature of ES256, r and s of 32 bytes each, is that of the key.
func (s signer) signed(digest, signature []byte) bool {
	return len(signature) == 2*coordinateSize && ecdsa.Verify(s.public, digest,
		new(big.Int).SetBytes(signature[:coordinateSize]), new(big.Int).SetBytes(signature[coordinateSize:]))
}

// signerOf returns a version of the signing key, the newest for "".
func (p *Provider) signerOf(ctx context.Context, op string, kc crypto.KeyContext, version string) (signer, error) {
	p.mu.Lock()
	known, ok := p.signers[version]
	p.mu.Unlock()
	if ok && time.Since(known.at) < signerLife {
		return known, nil
	}
	out, err := p.client.GetKey(ctx, p.loc.signingKey, version, nil)
	if err != nil {
		return signer{}, p.failed(ctx, op, kc, p.loc.signingKey, err)
	}
	found, isVersion := versionOf(out.KeyBundle)
	public, isEC := publicKey(out.Key)
	switch {
	case !isVersion || !isEC || version != "" && found != version:
		return signer{}, kc.Internalf(crypto.KindNotConfigured, op, "%s: signing_key is not an EC key on P-256", p.uri)
	case disabled(out.KeyBundle) && op == opUnwrap:
		return signer{}, kc.Internalf(p.ofVersion(ctx, p.loc.signingKey, false), op,
			"%s: the version of the signing key that signed it is disabled", p.uri)
	case disabled(out.KeyBundle):
		return signer{}, kc.Internalf(crypto.KindDenied, op, "%s: the signing key: %w", p.uri, errDisabled)
	}
	s := signer{version: found, public: public, at: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signers[found] = s // there are as many as the vault has versions
	return s, nil
}

func publicKey(key *azkeys.JSONWebKey) (public *ecdsa.PublicKey, ok bool) {
	if key == nil || key.Crv == nil || *key.Crv != azkeys.CurveNameP256 || len(key.X) > coordinateSize || len(key.Y) > coordinateSize {
		return nil, false
	}
	point := make([]byte, 1+2*coordinateSize)
	point[0] = 4 // uncompressed
	copy(point[1+coordinateSize-len(key.X):], key.X)
	copy(point[1+2*coordinateSize-len(key.Y):], key.Y)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Clip(point))
	return public, err == nil
}
