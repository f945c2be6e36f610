package azurekeyvault

import (
	"context"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// foreignKey is an RSA key with which Temporal's own proxy encrypted data keys. They are bound to nothing, and everybody could
// have encrypted them.
type foreignKey struct {
	key     *Provider
	version string
}

// OpenForeign opens a key with which Temporal's own proxy encrypted data keys. The URI may name a version, as that proxy's may;
// without one the newest decrypts. It sends nothing.
func OpenForeign(_ context.Context, uri string) (crypto.Decrypter, error) {
	loc, version, err := parseForeign(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	p := &Provider{uri: uri, loc: loc}
	if p.client, err = clientFor(loc); err != nil {
		return nil, crypto.Internalf(crypto.KindUnavailable, opOpen, "%s: %w", uri, err)
	}
	return foreignKey{p, version}, nil
}

// CheckForeign returns what is wrong with the URI of a key of another tool.
func CheckForeign(uri string) error {
	_, _, err := parseForeign(uri)
	return err
}

func parseForeign(uri string) (loc location, version string, err error) {
	place, query, _ := strings.Cut(uri, "?")
	key := strings.LastIndexByte(place, '/')
	if strings.Count(place, "/") == 5 && versionForm.MatchString(place[key+1:]) { // azurekeyvault://<host>/keys/<name>/<version>
		place, version = place[:key], place[key+1:]
	}
	loc, err = parseURI(place + "?" + query)
	return loc, version, err
}

// Decrypt decrypts a data key.
func (k foreignKey) Decrypt(ctx context.Context, wrapped []byte, _ map[string]string) ([]byte, error) {
	version := k.version
	if version == "" {
		found, err := k.key.client.GetKey(ctx, k.key.loc.key, "", nil)
		if err != nil {
			return nil, k.key.failed(ctx, opUnwrap, crypto.KeyContext{}, k.key.loc.key, err)
		}
		version, _ = versionOf(found.KeyBundle)
	}
	out, err := k.key.client.Decrypt(ctx, k.key.loc.key, version, azkeys.KeyOperationParameters{
		Algorithm: to.Ptr(azkeys.EncryptionAlgorithmRSAOAEP256), Value: wrapped}, nil)
	if err != nil {
		return nil, k.key.failed(ctx, opUnwrap, crypto.KeyContext{}, k.key.loc.key, err)
	}
	return k.key.dataKey(out.Result, crypto.KeyContext{})
}
