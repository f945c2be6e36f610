package app_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault/azuretest"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// TestForeignKeyOfAzure: a payload that Temporal's own proxy sealed under an RSA key in Azure opens.
func TestForeignKeyOfAzure(t *testing.T) {
	vault := new(azuretest.Vault)
	key := vault.Add("theirs", "RSA")
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	dataKey := bytes.Repeat([]byte{7}, 32)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.RSA.PublicKey, dataKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	marshal := func(p *commonpb.Payload) []byte {
		out, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	clear := marshal(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"Ada"`)})
	sealed := marshal(&commonpb.Payload{Data: gcm.Seal(nil, nil, clear, nil), Metadata: map[string][]byte{"encoding": []byte("binary/encrypted"),
		"encryption-key-id": []byte("azurekeyvault://seal.vault.azure.net/keys/theirs"), "encryption-dek": []byte(base64.StdEncoding.EncodeToString(wrapped))}})

	c := &config.Config{Foreign: []config.Foreign{{Namespaces: []string{"clinic"}, Format: "temporal-proxy",
		KMS: "azurekeyvault://seal.vault.azure.net/keys/theirs/" + key.ID + "?endpoint=" + server.URL}}}
	r, err := app.ForeignReader(t.Context(), c, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var run foreign.Run
	in := r.For("clinic")
	parsed, err := in.Parse(sealed, &run)
	if err != nil || parsed == nil {
		t.Fatalf("it is not recognized: %v", err)
	}
	if out, _, err := in.Open(t.Context(), nil, parsed, &run); err != nil || !bytes.Equal(out, clear) {
		t.Errorf("it does not open: %v", err)
	}
}
