package azurekeyvault

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// foreignKey is an RSA key with which Temporal's own proxy encrypted data keys. They are bound to nothing, and everybody could
// have encrypted them.
type foreignKey struct {
	key       *Provider
	version   string
	algorithm azkeys.EncryptionAlgorithm
}

// OpenForeign opens a key with which Temporal's own proxy encrypted data keys. The URI may name a version, as that proxy's may;
// without one the newest decrypts. Its parameter algorithm, RSA-OAEP-256 or RSA-OAEP, is that proxy's too. It sends nothing.
func OpenForeign(_ context.Context, uri string) (crypto.Decrypter, error) {
	k, err := parseForeign(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	if k.key.client, err = clientFor(k.key.loc); err != nil {
		return nil, crypto.Internalf(crypto.KindUnavailable, opOpen, "%s: %w", uri, err)
	}
	return k, nil
}

// CheckForeign returns what is wrong with the URI of a key of another tool.
func CheckForeign(uri string) error {
	_, err := parseForeign(uri)
	return err
}

func parseForeign(uri string) (k foreignKey, err error) {
	k.algorithm = azkeys.EncryptionAlgorithmRSAOAEP256
	place, query, _ := strings.Cut(uri, "?")
	key := strings.LastIndexByte(place, '/')
	if strings.Count(place, "/") == 5 && versionForm.MatchString(place[key+1:]) { // azurekeyvault://<host>/keys/<name>/<version>
		place, k.version = place[:key], place[key+1:]
	}
	if params, err := url.ParseQuery(query); err == nil && len(params["algorithm"]) == 1 {
		k.algorithm = azkeys.EncryptionAlgorithm(params.Get("algorithm"))
		params.Del("algorithm")
		query = params.Encode()
	}
	if k.algorithm != azkeys.EncryptionAlgorithmRSAOAEP256 && k.algorithm != azkeys.EncryptionAlgorithmRSAOAEP {
		return k, fmt.Errorf("%s: algorithm is RSA-OAEP-256 or RSA-OAEP, not %q", place, k.algorithm)
	}
	loc, err := parseURI(place + "?" + query)
	k.key = &Provider{uri: uri, loc: loc}
	return k, err
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
		Algorithm: to.Ptr(k.algorithm), Value: wrapped}, nil)
	if err != nil {
		return nil, k.key.failed(ctx, opUnwrap, crypto.KeyContext{}, k.key.loc.key, err)
	}
	return k.key.dataKey(out.Result, crypto.KeyContext{})
}
