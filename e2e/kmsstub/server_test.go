package kmsstub_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// The stub is judged by AWS's own client: what it accepts, and which error type it makes of an answer.

const region = "eu-central-1"

func start(t *testing.T) (*kmsstub.Server, *kms.Client) {
	t.Helper()
	s := kmsstub.New(kmsstub.Options{Region: region})
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, client(s.URL, region, "AKIATEST")
}

func client(url, region, accessKey string) *kms.Client {
	return kms.New(kms.Options{
		BaseEndpoint: aws.String(url), Region: region, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, "secret", ""),
	})
}

func TestDataKeyRoundTrip(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	id := s.CreateKey(false)
	s.SetAlias("alias/app", id)
	kc := map[string]string{"a": "1", "b": "2"}

	for _, name := range []string{id, "alias/app", "arn:aws:kms:eu-central-1:111122223333:key/" + id, "arn:aws:kms:eu-central-1:111122223333:alias/app"} {
		made, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &name, KeySpec: types.DataKeySpecAes256, EncryptionContext: kc})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(made.Plaintext) != 32 || len(made.CiphertextBlob) != 184 {
			t.Fatalf("%s: key of %d bytes in a blob of %d, want 32 in 184", name, len(made.Plaintext), len(made.CiphertextBlob))
		}
		opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: kc})
		if err != nil || string(opened.Plaintext) != string(made.Plaintext) || *opened.KeyId != *made.KeyId {
			t.Fatalf("%s: decrypt: %v", name, err)
		}
	}
	if calls := s.Calls(); len(calls) != 8 || calls[0].Op != "GenerateDataKey" || calls[0].Context["a"] != "1" || calls[0].AccessKeyID != "AKIATEST" {
		t.Errorf("calls = %+v", calls)
	}
}

func TestBlobIsBound(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	id, other := s.CreateKey(false), s.CreateKey(false)
	kc := map[string]string{"namespace": "a"}
	made, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x"), EncryptionContext: kc})
	if err != nil {
		t.Fatal(err)
	}
	wrong := func(what string, want any, in *kms.DecryptInput) {
		t.Helper()
		if _, err := c.Decrypt(ctx, in); !errors.As(err, want) {
			t.Errorf("%s: %v, want %T", what, err, want)
		}
	}
	invalid, incorrect := new(*types.InvalidCiphertextException), new(*types.IncorrectKeyException)
	wrong("no context", invalid, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob})
	wrong("other context", invalid, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: map[string]string{"namespace": "b"}})
	wrong("no blob at all", invalid, &kms.DecryptInput{CiphertextBlob: []byte("rubbish"), EncryptionContext: kc})
	wrong("other key", incorrect, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: kc, KeyId: &other})
	for i := range made.CiphertextBlob {
		if i >= 4 && i < 44 {
			continue // the key id: another error, below
		}
		flipped := append([]byte(nil), made.CiphertextBlob...)
		flipped[i] ^= 1
		wrong("flipped", invalid, &kms.DecryptInput{CiphertextBlob: flipped, EncryptionContext: kc})
	}
	s.DestroyKey(id)
	_, err = c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: kc})
	if code(err) != "AccessDeniedException" {
		t.Errorf("blob of a key that is gone: %v, want AccessDeniedException as AWS answers", err)
	}
}

func TestKeyStates(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	id := s.CreateKey(false)
	made, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &id, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[kmsstub.State]string{
		kmsstub.Disabled: "DisabledException", kmsstub.PendingDeletion: "KMSInvalidStateException",
		kmsstub.PendingImport: "KMSInvalidStateException", kmsstub.Unavailable: "KMSInvalidStateException",
	} {
		s.SetState(id, state)
		_, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob})
		if code(err) != want {
			t.Errorf("decrypt, %s: %v, want %s", state, err, want)
		}
		_, err = c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &id, KeySpec: types.DataKeySpecAes256})
		if code(err) != want {
			t.Errorf("generate, %s: %v, want %s", state, err, want)
		}
		described, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
		if err != nil || string(described.KeyMetadata.KeyState) != string(state) {
			t.Errorf("describe, %s: %v", state, err)
		}
	}
	if _, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String("alias/none"), KeySpec: types.DataKeySpecAes256}); code(err) != "NotFoundException" {
		t.Errorf("unknown alias: %v", err)
	}
}

func TestManagedOverTheAPI(t *testing.T) {
	_, c := start(t)
	ctx := t.Context()
	made, err := c.CreateKey(ctx, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	id := made.KeyMetadata.KeyId
	if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: id}); err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/app"), Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id}); err != nil {
		t.Fatal(err)
	}
	if opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); err != nil || string(opened.Plaintext) != "x" {
		t.Errorf("after rotation: %v", err)
	}
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("x")}); code(err) != "DisabledException" {
		t.Errorf("disabled: %v", err)
	}
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("x")}); err != nil {
		t.Errorf("enabled again: %v", err)
	}
}

func TestRegions(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	single, multi := s.CreateKey(false), s.CreateKey(true)
	elsewhere := client(s.URL, "us-east-1", "AKIATEST")
	if _, err := elsewhere.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &single}); code(err) != "NotFoundException" {
		t.Errorf("single-region key elsewhere: %v", err)
	}
	sealed, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &multi, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); err != nil {
		t.Errorf("multi-Region key elsewhere: %v", err)
	}
}

func TestFaults(t *testing.T) {
	s, c := start(t)
	id := s.CreateKey(false)
	encrypt := func(ctx context.Context) error {
		_, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
		return err
	}
	names := []string{
		"ThrottlingException", "KeyUnavailableException", "KMSInternalException", "DependencyTimeoutException",
		"AccessDeniedException", "ExpiredTokenException", "InvalidGrantTokenException", "KMSInvalidStateException",
	}
	for _, name := range names {
		s.Script("Encrypt", kmsstub.Fault{Error: name, Message: "scripted"})
		if err := encrypt(t.Context()); code(err) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := encrypt(t.Context()); err != nil {
		t.Fatalf("after the script: %v", err)
	}

	s.Script("", kmsstub.Fault{Error: "KMSInternalException", Status: http.StatusBadGateway})
	var status *smithy.OperationError
	if err := encrypt(t.Context()); !errors.As(err, &status) {
		t.Errorf("bad gateway: %v", err)
	}
	s.Script("", kmsstub.Fault{Reset: true})
	if err := encrypt(t.Context()); err == nil || code(err) != "" {
		t.Errorf("reset: %v, want an error without an answer", err)
	}
	s.Always("Encrypt", kmsstub.Fault{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := encrypt(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	s.Heal()
	s.Script("", kmsstub.Fault{Delay: 150 * time.Millisecond})
	began := time.Now()
	if err := encrypt(t.Context()); err != nil || time.Since(began) < 150*time.Millisecond {
		t.Errorf("delay: %v after %v", err, time.Since(began))
	}
	s.DenyCaller("AKIATEST", "AccessDeniedException")
	if err := encrypt(t.Context()); code(err) != "AccessDeniedException" {
		t.Errorf("denied caller: %v", err)
	}
}

func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}
