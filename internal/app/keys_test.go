package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault/azuretest"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

// TestATakenKeyStopsNoStart: a key that one tenant has deleted or disabled stops nobody else, and the log and /readyz say so.
func TestATakenKeyStopsNoStart(t *testing.T) {
	vault := new(azuretest.Vault)
	vault.Add("disabled", "RSA")
	vault.Add("vouch", "EC").Disabled = true
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	uri := func(name string) string {
		return "azurekeyvault://seal.vault.azure.net/keys/" + name + "?signing_key=vouch&endpoint=" + server.URL
	}
	c := newChanging(t, "keys:\n  - {name: default, active: \"local:DIR/default.key\"}\n"+
		"  - {name: deleted, namespaces: [tenant-a], active: \""+uri("deleted")+"\"}\n"+
		"  - {name: disabled, namespaces: [tenant-b], active: \""+uri("disabled")+"\"}\npolicy: {file: \"DIR/policy.rego\"}\n",
		map[string]string{"policy.rego": "package temporal\n"})
	if _, _, err := c.keys.Sealer(t.Context(), "tenant-c", "default"); err != nil {
		t.Errorf("another tenant's key seals nothing: %v", err)
	}
	if _, _, err := c.keys.Sealer(t.Context(), "tenant-b", "disabled"); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("a disabled signing key: %v", err)
	}
	if !strings.Contains(c.page(), "keys/deleted") || !strings.Contains(c.log.String(), "keys/deleted") {
		t.Errorf("the deleted key is in neither /readyz nor the log:\n%s\n%s", c.page(), &c.log)
	}
	if !strings.Contains(c.log.String(), "nothing can be sealed") {
		t.Errorf("the log says nothing of the disabled key:\n%s", &c.log)
	}
}

// TestADisabledVersionTakesNoOthersAlong: what an old version of a key wrapped does not open once that is disabled, and says why. What
// others wrapped opens, and sealing goes on.
func TestADisabledVersionTakesNoOthersAlong(t *testing.T) {
	vault := new(azuretest.Vault)
	old := vault.Add("phi", "RSA")
	vault.Add("vouch", "EC")
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	uri := "azurekeyvault://seal.vault.azure.net/keys/phi?signing_key=vouch&endpoint=" + server.URL
	seal := func() (*keyring.Keyring, *envelope.Sealed) {
		keys, err := keyring.New(t.Context(), keyring.Options{Open: keyservice.Open, Keys: []keyring.KeyConfig{{Name: "phi", Active: uri}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(keys.Close)
		keys.Confirm("clinic")
		sealer, _, err := keys.Sealer(t.Context(), "clinic", "phi")
		if err != nil {
			t.Fatal(err)
		}
		var nonces envelope.Nonces
		nonces.Expect(1)
		defer nonces.Reset()
		payload, err := sealer.AppendPayload(nil, []byte("\x12\x05\"Ada\""), false, &nonces)
		if err != nil {
			t.Fatal(err)
		}
		sealed, _, err := envelope.ParsePayload(payload)
		if err != nil {
			t.Fatal(err)
		}
		return keys, &sealed
	}
	_, before := seal()
	vault.Add("phi", "RSA")
	keys, after := seal()
	old.Disabled = true
	for range 3 {
		if _, _, err := keys.Open(t.Context(), nil, before, "clinic", new(keyring.Run)); crypto.KindOf(err) != crypto.KindRejected ||
			!strings.Contains(fmt.Sprint(err), "KeyDisabled") {
			t.Errorf("sealed under the disabled version: %v", err)
		}
		if _, _, err := keys.Open(t.Context(), nil, after, "clinic", new(keyring.Run)); err != nil {
			t.Errorf("sealed under the newest version: %v", err)
		}
		if _, _, err := keys.Sealer(t.Context(), "clinic", "phi"); err != nil {
			t.Errorf("nothing is sealed any more: %v", err)
		}
	}
}

// TestForeignKeyTakenAway: a key of another tool that was deleted before the start does not look like an outage.
func TestForeignKeyTakenAway(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	kms := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"__type":"NotFoundException","message":"it is gone"}`))
	}))
	t.Cleanup(kms.Close)
	_, err := unwrapLate("awskms://alias/theirs?region=eu-central-1&endpoint="+kms.URL)(t.Context(), []byte("wrapped"), nil)
	if crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("kind %v, want revoked: %v", crypto.KindOf(err), err)
	}
}
