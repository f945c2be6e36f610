package providers

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault/azuretest"
)

// checkStubs has the services' own clients for Python call the stubs: they were not written by those who wrote the stubs.
func checkStubs(t *testing.T) {
	t.Helper()
	python, err := harness.PythonPackages(t.Context(), os.Stderr, "key-clients-1", "azure-keyvault-keys==4.11.*", "google-cloud-kms", "google-crc32c")
	if err != nil {
		t.Fatal(err)
	}
	run := func(script string, args ...string) {
		if out, err := exec.CommandContext(t.Context(), python, append([]string{script}, args...)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	vault := new(azuretest.Vault)
	for name, kind := range map[string]string{"aes": "AES", "rsa": "RSA", "vouch": "EC"} {
		vault.Add(name, kind)
	}
	server := httptest.NewTLSServer(challenging{vault})
	t.Cleanup(server.Close)
	certificate := filepath.Join(t.TempDir(), "vault.pem")
	write(t, certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	run("azure_client.py", server.URL, certificate)
	_, address := startGoogleKMS(t)
	run("google_client.py", address, googleKey)
}

// challenging asks for a token, as Azure does.
type challenging struct{ vault *azuretest.Vault }

func (c challenging) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer token" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	c.vault.ServeHTTP(w, r)
}
