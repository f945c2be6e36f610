package kmsstub_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// TestKeptKeys: a server that comes back opens what the one before sealed, with each generation of the key.
func TestKeptKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	first, stop := keeping(t, file)
	made, err := first.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/kept"), TargetKeyId: made.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	before := seal(t, first, "before")
	if _, err := first.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: made.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	after := seal(t, first, "after")
	stop()

	second, stop := keeping(t, file)
	defer stop()
	for text, blob := range map[string][]byte{"before": before, "after": after} {
		opened, err := second.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob})
		if err != nil || !bytes.Equal(opened.Plaintext, []byte(text)) {
			t.Errorf("%s: opened to %v, %v", text, opened, err)
		}
	}
	seal(t, second, "with the alias")
}

func keeping(t *testing.T, file string) (*kms.Client, func()) {
	t.Helper()
	s := kmsstub.New(kmsstub.Options{})
	if err := s.Keep(file); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return kms.New(kms.Options{BaseEndpoint: aws.String(s.URL), Region: "eu-central-1",
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")}), s.Close
}

func seal(t *testing.T, c *kms.Client, text string) []byte {
	t.Helper()
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("alias/kept"), Plaintext: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return out.CiphertextBlob
}
