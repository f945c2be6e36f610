package azurekeyvault

import (
	"bytes"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // of RSA-OAEP
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// TestForeign: what Temporal's own proxy encrypted with an RSA key opens, by the version that its URI names or by the newest.
func TestForeign(t *testing.T) {
	v, endpoint := start(t)
	key := v.Add("theirs", "RSA")
	plain := bytes.Repeat([]byte{7}, 32)
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.RSA.PublicKey, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	uri := "azurekeyvault://" + host + "/keys/theirs"
	decrypt := func(uri string, wrapped []byte) ([]byte, error) {
		t.Helper()
		k, err := OpenForeign(t.Context(), uri+"?"+endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return k.Decrypt(t.Context(), wrapped, nil)
	}
	for _, uri := range []string{uri, uri + "/" + key.ID} {
		if got, err := decrypt(uri, wrapped); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: it does not open: %v", uri, err)
		}
		if _, err := decrypt(uri, wrapped[:len(wrapped)-1]); crypto.KindOf(err) != crypto.KindRejected {
			t.Errorf("%s: a piece of it: %v", uri, err)
		}
	}
	var older []byte
	fips140.WithoutEnforcement(func() { older, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, &key.RSA.PublicKey, plain, nil) })
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, wrapped := range map[string][]byte{"RSA-OAEP-256": wrapped, "RSA-OAEP": older} {
		k, err := OpenForeign(t.Context(), uri+"?algorithm="+algorithm+"&"+endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Decrypt(t.Context(), wrapped, nil); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("encrypted with %s it does not open: %v", algorithm, err)
		}
	}
	v.Add("theirs", "RSA")
	if got, err := decrypt(uri+"/"+key.ID, wrapped); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("after a rotation it does not open: %v", err)
	}
	if _, err := decrypt("azurekeyvault://"+host+"/keys/nobody", wrapped); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("a key that is not there: %v", err)
	}
	for uri, want := range map[string]string{
		"azurekeyvault://" + host + "/keys/a/b/c":              "names a version",
		"azurekeyvault://" + host + "/secrets/a":               "does not name a key",
		"azurekeyvault://" + host + "/keys/a?zone=x":           "unknown parameter",
		"azurekeyvault://" + host + "/keys/a?algorithm=RSA1_5": "algorithm is RSA-OAEP-256 or RSA-OAEP",
	} {
		err := CheckForeign(uri)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", uri, err, want)
		}
		if _, err := OpenForeign(t.Context(), uri); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("open %s: %v", uri, err)
		}
	}
}
