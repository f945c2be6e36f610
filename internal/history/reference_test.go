package history_test

import (
	"encoding/base64"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/history"
)

// TestReferencesNeedNoNamespace: where the key store has the names of an envelope, it opens for the namespace that its row names, as a
// self-contained one does for the namespace that stands in it.
func TestReferencesNeedNoNamespace(t *testing.T) {
	dir := t.TempDir()
	path, uri := filepath.Join(dir, "seal.key"), "sqlite:"+filepath.Join(dir, "keys.db")
	if err := localkey.Create(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	id, _, err := keystore.Init(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	start := func() *keyring.Keyring {
		store, err := keystore.New(uri, id)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: slog.New(slog.DiscardHandler), Store: store,
			Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + path, Reference: true}}})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	writer := start()
	writer.Confirm("clinic")
	var document string
	for range 8 { // the first ones carry their keys
		document = sealed(t, writer, &commonpb.Payload{Data: []byte("a lab result"), Metadata: map[string][]byte{"encoding": []byte("binary/plain")}})
	}
	writer.Close()
	reader := start()
	defer reader.Close()
	got, n, problems := opened(t, document, history.Options{Keys: reader})
	if want := base64.StdEncoding.EncodeToString([]byte("a lab result")); n != 1 || len(problems) > 0 || !strings.Contains(got, want) {
		t.Errorf("%d opened, problems %q: %s", n, problems, got)
	}
}
