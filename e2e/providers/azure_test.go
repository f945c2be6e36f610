package providers

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"net/http/httptest"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault/azuretest"
)

const (
	azureHost    = "seal.vault.azure.net"
	azureOutage  = "status codes, and for a version that is not there whether the key is"
	azureAgainst = "a stub written from the REST reference, checked with PyPI's azure-keyvault-keys 4.11"
)

var (
	azureRSA = provider{
		name:    "Azure Key Vault, RSA-OAEP-256",
		start:   func(t *testing.T) *peer { return startAzure(t, "RSA") },
		binds:   "the signing key in the service, which signs both; verified by the proxy",
		forging: "the signing key in the service: what it did not sign is refused",
		outage:  azureOutage,
		rotates: "opens, while the versions that wrapped and signed it are enabled",
		needs:   "get, wrapKey, unwrapKey; on the signing key get, sign",
		against: azureAgainst,
	}
	azureAES = provider{
		name:    "Azure Managed HSM, A256GCM",
		start:   func(t *testing.T) *peer { return startAzure(t, "AES") },
		binds:   "the service, as additional authenticated data",
		forging: "the key in the service",
		outage:  azureOutage,
		rotates: "opens, while the version that wrapped it is enabled",
		needs:   "get, encrypt, decrypt",
		against: azureAgainst,
	}
)

func startAzure(t *testing.T, kind string) *peer {
	vault := new(azuretest.Vault)
	key, signing := vault.Add("seal", kind), vault.Add("vouch", "EC")
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	relay := newRelay(t, "tcp", server.Listener.Addr().String())
	fail := func(status int, code, inner string) func(*testing.T) func() {
		return func(*testing.T) func() {
			vault.Fail(&azuretest.Fault{Status: status, Code: code, Inner: inner})
			return func() { vault.Fail(nil) }
		}
	}
	p := &peer{
		uri: "azurekeyvault://" + azureHost + "/keys/seal?endpoint=http://" + relay.address, key: "seal", relay: relay,
		// Somebody who knows the form of wrapped keys and has a key of their own.
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			own := ownKey(t).Seal(nil, nil, plain, azureBound(kc))
			return azureParts(1, []byte(key.ID), own[:12], own[len(own)-16:], own[12:len(own)-16])
		},
		disable:  func(*testing.T) func() { return vault.Disable("seal") },
		deny:     fail(403, "Forbidden", "ForbiddenByRbac"),
		throttle: fail(429, "Throttled", ""),
		expire:   fail(401, "Unauthorized", "TokenExpired"),
		rotate:   func(*testing.T) { vault.Add("seal", kind); vault.Add("vouch", "EC") },
	}
	if kind != "RSA" {
		return p
	}
	p.uri += "&signing_key=vouch"
	// Somebody who has the public key, and signs with a key of their own.
	p.forge = func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
		encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.RSA.PublicKey, plain, nil)
		if err != nil {
			t.Fatal(err)
		}
		unsigned := azureParts(2, []byte(key.ID), []byte(signing.ID), encrypted)
		digest := sha256.Sum256(append(azureBound(kc), unsigned...))
		signature, err := azuretest.Sign(new(azuretest.Vault).Add("own", "EC").EC, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return azurePart(unsigned, signature)
	}
	return p
}

func azureBound(kc crypto.KeyContext) []byte {
	return kc.AssociatedData("temporal-seal/v1/" + azureHost + "/keys/seal\x00")
}

// azureParts writes a wrapped key as the product does.
func azureParts(kind byte, parts ...[]byte) []byte {
	out := []byte{kind}
	for _, p := range parts {
		out = azurePart(out, p)
	}
	return out
}

func azurePart(to, part []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(part))), part...)
}
