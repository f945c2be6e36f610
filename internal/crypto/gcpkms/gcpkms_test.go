package gcpkms

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const keyName = "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/phi"

var clinic = crypto.KeyContext{Namespace: "clinic", Key: "phi"}

// service answers as Google's API reference says, and fails as a test requires.
type service struct {
	kmspb.UnimplementedKeyManagementServiceServer
	gcm cipher.AEAD

	mu      sync.Mutex
	err     error // of Encrypt and Decrypt
	getErr  error // of GetCryptoKey
	state   kmspb.CryptoKeyVersion_CryptoKeyVersionState
	purpose kmspb.CryptoKey_CryptoKeyPurpose
	damaged bool // answers with checksums that do not fit
	blind   bool // does not verify checksums
	short   bool // decrypts to another length
}

func (s *service) change(f func(*service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *service) GetCryptoKey(_ context.Context, in *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &kmspb.CryptoKey{Name: in.Name, Purpose: s.purpose, Primary: &kmspb.CryptoKeyVersion{State: s.state}}, s.getErr
}

func (s *service) Encrypt(_ context.Context, in *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if !intact(in.Plaintext, in.PlaintextCrc32C) || !intact(in.AdditionalAuthenticatedData, in.AdditionalAuthenticatedDataCrc32C) {
		return nil, status.Error(codes.InvalidArgument, "the checksum in plaintext_crc32c does not fit")
	}
	out := s.gcm.Seal(nil, nil, in.Plaintext, in.AdditionalAuthenticatedData)
	sum := checksum(out)
	if s.damaged {
		sum.Value++
	}
	return &kmspb.EncryptResponse{Ciphertext: out, CiphertextCrc32C: sum,
		VerifiedPlaintextCrc32C: !s.blind, VerifiedAdditionalAuthenticatedDataCrc32C: !s.blind}, nil
}

func (s *service) Decrypt(_ context.Context, in *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	plain, err := s.gcm.Open(nil, nil, in.Ciphertext, in.AdditionalAuthenticatedData)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	}
	if s.short {
		plain = plain[:5]
	}
	sum := checksum(plain)
	if s.damaged {
		sum.Value++
	}
	return &kmspb.DecryptResponse{Plaintext: plain, PlaintextCrc32C: sum}, nil
}

func start(t *testing.T) (s *service, uri string) {
	t.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s = &service{state: kmspb.CryptoKeyVersion_ENABLED, purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT}
	if s.gcm, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return s, "gcpkms://" + keyName + "?endpoint=http://" + l.Addr().String()
}

func open(t *testing.T, uri string) *Provider {
	t.Helper()
	p, err := Open(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Provider)
}

func TestDataKeys(t *testing.T) {
	_, uri := start(t)
	p := open(t, uri)
	if want := crypto.NewKEKRef("gcpkms", keyName); p.Ref() != want || p.URI() != uri {
		t.Errorf("reference %s, want %s", p.Ref(), want)
	}
	if again := open(t, uri); again.client != p.client {
		t.Error("the same key opened again has a client of its own")
	}
	plain, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil || len(plain) != 32 {
		t.Fatal(len(plain), err)
	}
	if got, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("unwrapped to another key, error %v", err)
	}
	for _, kc := range []crypto.KeyContext{{Namespace: "billing", Key: "phi"}, {Namespace: "clinic", Key: "default"}} {
		if _, err := p.UnwrapDataKey(t.Context(), wrapped, kc); crypto.KindOf(err) != crypto.KindRejected {
			t.Errorf("in %v: %v", kc, err)
		}
	}
}

// TestForeign: what Temporal's own proxy encrypted, without additional authenticated data, opens; our own data keys do not so.
func TestForeign(t *testing.T) {
	s, uri := start(t)
	k, err := OpenForeign(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte{7}, 32)
	if got, err := k.Decrypt(t.Context(), s.gcm.Seal(nil, nil, plain, nil), nil); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("it does not open: %v", err)
	}
	_, ours, err := open(t, uri).GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Decrypt(t.Context(), ours, nil); crypto.KindOf(err) != crypto.KindRejected {
		t.Errorf("a data key of ours: %v", err)
	}
	if _, err := OpenForeign(t.Context(), "gcpkms://projects/p"); crypto.KindOf(err) != crypto.KindNotConfigured {
		t.Errorf("no key: %v", err)
	}
}

// TestChecksums: what was damaged on its way seals and opens nothing.
func TestChecksums(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	s.change(func(s *service) { s.damaged = true })
	if _, _, err := p.GenerateDataKey(t.Context(), clinic); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("encrypted with another checksum: %v", err)
	}
	if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("decrypted with another checksum: %v", err)
	}
	s.change(func(s *service) { s.damaged, s.blind = false, true })
	if _, _, err := p.GenerateDataKey(t.Context(), clinic); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("encrypted what was not verified: %v", err)
	}
	s.change(func(s *service) { s.short = true })
	if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != crypto.KindRejected {
		t.Errorf("no data key: %v", err)
	}
}

// TestFailures is the table of what each answer means.
func TestFailures(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	reason := func(text string) error {
		s, err := status.New(codes.PermissionDenied, "denied").WithDetails(&errdetails.ErrorInfo{Reason: text})
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	for name, c := range map[string]struct {
		err          error
		seal, unwrap crypto.Kind
	}{
		"denied":            {status.Error(codes.PermissionDenied, ""), crypto.KindDenied, crypto.KindDenied},
		"denied by IAM":     {reason("IAM_PERMISSION_DENIED"), crypto.KindDenied, crypto.KindDenied},
		"the API is off":    {reason("SERVICE_DISABLED"), crypto.KindUnavailable, crypto.KindUnavailable},
		"gone":              {status.Error(codes.NotFound, ""), crypto.KindRevoked, crypto.KindRevoked},
		"disabled":          {status.Error(codes.FailedPrecondition, "v/1 is not enabled, current state is: DISABLED."), crypto.KindDenied, crypto.KindDenied},
		"destroyed":         {status.Error(codes.FailedPrecondition, "v/1 is not enabled, current state is: DESTROYED."), crypto.KindDenied, crypto.KindDenied},
		"to be destroyed":   {status.Error(codes.FailedPrecondition, "v/1 is not enabled, current state is: DESTROY_SCHEDULED."), crypto.KindDenied, crypto.KindDenied},
		"being made":        {status.Error(codes.FailedPrecondition, "v/1 is not enabled, current state is: PENDING_GENERATION."), crypto.KindUnavailable, crypto.KindUnavailable},
		"external and away": {status.Error(codes.FailedPrecondition, "the external key manager does not answer"), crypto.KindUnavailable, crypto.KindUnavailable},
		"not its own":       {status.Error(codes.InvalidArgument, "Decryption failed"), crypto.KindNotConfigured, crypto.KindRejected},
		"damaged":           {status.Error(codes.InvalidArgument, "The checksum in field ciphertext_crc32c did not match"), crypto.KindUnavailable, crypto.KindUnavailable},
		"throttled":         {status.Error(codes.ResourceExhausted, ""), crypto.KindUnavailable, crypto.KindUnavailable},
		"credentials":       {status.Error(codes.Unauthenticated, ""), crypto.KindUnavailable, crypto.KindUnavailable},
		"internal":          {status.Error(codes.Internal, ""), crypto.KindUnavailable, crypto.KindUnavailable},
	} {
		s.change(func(s *service) { s.err = c.err })
		_, _, sealErr := p.GenerateDataKey(t.Context(), clinic)
		_, unwrapErr := p.UnwrapDataKey(t.Context(), wrapped, clinic)
		if crypto.KindOf(sealErr) != c.seal || crypto.KindOf(unwrapErr) != c.unwrap {
			t.Errorf("%s: %v and %v, want kinds %v and %v", name, sealErr, unwrapErr, c.seal, c.unwrap)
		}
		if !strings.Contains(unwrapErr.Error(), uri) {
			t.Errorf("%s: the error does not name the key: %v", name, unwrapErr)
		}
	}
	// The answers above are about a version that is not the primary one. The whole key is gone if that is disabled too.
	s.change(func(s *service) {
		s.err = status.Error(codes.FailedPrecondition, "v/1 is not enabled, current state is: DISABLED.")
	})
	for _, c := range []struct {
		getErr error
		state  kmspb.CryptoKeyVersion_CryptoKeyVersionState
		want   crypto.Kind
	}{
		{status.Error(codes.Internal, ""), 0, crypto.KindUnavailable},
		{status.Error(codes.PermissionDenied, ""), 0, crypto.KindDenied},
		{status.Error(codes.NotFound, ""), 0, crypto.KindRevoked},
		{nil, kmspb.CryptoKeyVersion_DISABLED, crypto.KindRevoked},
	} {
		s.change(func(s *service) { s.getErr, s.state = c.getErr, c.state })
		if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != c.want || !strings.Contains(err.Error(), "DISABLED") {
			t.Errorf("asked for the primary version, the service says %v, %v: %v, want kind %v", c.getErr, c.state, err, c.want)
		}
	}
	// A state that the answer does not name is looked up.
	s.change(func(s *service) {
		s.err, s.state = status.Error(codes.FailedPrecondition, "not usable"), kmspb.CryptoKeyVersion_DISABLED
	})
	if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("the primary version is disabled: %v", err)
	}
}

// TestPrimaryDisabled: while the primary version is disabled, what another version wrapped does not open either.
func TestPrimaryDisabled(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	plain, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		state  kmspb.CryptoKeyVersion_CryptoKeyVersionState
		getErr error
		want   crypto.Kind
	}{
		{kmspb.CryptoKeyVersion_DISABLED, nil, crypto.KindRevoked},
		{kmspb.CryptoKeyVersion_DESTROYED, nil, crypto.KindRevoked},
		{kmspb.CryptoKeyVersion_DISABLED, status.Error(codes.PermissionDenied, ""), crypto.KindUnknown}, // it may not be looked at
		{kmspb.CryptoKeyVersion_DISABLED, status.Error(codes.Unavailable, ""), crypto.KindUnknown},
		{kmspb.CryptoKeyVersion_ENABLED, nil, crypto.KindUnknown},
	} {
		s.change(func(s *service) { s.state, s.getErr = c.state, c.getErr })
		p.seen = crypto.Newest{} // as after some seconds
		got, err := p.UnwrapDataKey(t.Context(), wrapped, clinic)
		if crypto.KindOf(err) != c.want || err == nil && !bytes.Equal(got, plain) || err != nil && !strings.Contains(err.Error(), c.state.String()) {
			t.Errorf("the primary version is %s, looking at it %v: %v, want kind %v", c.state, c.getErr, err, c.want)
		}
	}
	s.change(func(s *service) { s.state = kmspb.CryptoKeyVersion_DISABLED })
	if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil {
		t.Errorf("it was looked up a moment ago: %v", err)
	}
}

func TestOpenIsCareful(t *testing.T) {
	s, uri := start(t)
	for name, c := range map[string]struct {
		change func(*service)
		kind   crypto.Kind
		text   string
	}{
		"a key for signatures": {func(s *service) { s.purpose = kmspb.CryptoKey_ASYMMETRIC_SIGN }, crypto.KindNotConfigured, "ASYMMETRIC_SIGN"},
		"no such key":          {func(s *service) { s.getErr = status.Error(codes.NotFound, "not found") }, crypto.KindRevoked, "not found"},
	} {
		s.change(func(s *service) {
			s.state, s.purpose, s.getErr = kmspb.CryptoKeyVersion_ENABLED, kmspb.CryptoKey_ENCRYPT_DECRYPT, nil
			c.change(s)
		})
		if _, err := Open(t.Context(), uri); crypto.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error %v, want kind %v and %q", name, err, c.kind, c.text)
		}
	}
	s.change(func(s *service) {
		s.purpose, s.getErr, s.state = kmspb.CryptoKey_ENCRYPT_DECRYPT, nil, kmspb.CryptoKeyVersion_DESTROYED
	})
	if err := open(t, uri).CheckWrap(t.Context()); crypto.KindOf(err) != crypto.KindDenied || !strings.Contains(err.Error(), "DESTROYED") {
		t.Errorf("a primary version that is destroyed, while others may decrypt: %v", err)
	}
	s.change(func(s *service) { s.getErr = status.Error(codes.PermissionDenied, "") })
	if err := open(t, uri).CheckWrap(t.Context()); err != nil {
		t.Errorf("a key that may not be looked at: %v", err)
	}
	if _, err := Open(t.Context(), uri); err != nil {
		t.Errorf("a key that may not be looked at: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := Open(ctx, "gcpkms://"+keyName+"?endpoint=http://127.0.0.1:1"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("nobody there: %v", err)
	}
}

func TestURIs(t *testing.T) {
	for uri, want := range map[string]location{
		"gcpkms://" + keyName: {name: keyName},
		"gcpkms://" + keyName + "?endpoint=https://kms.example": {name: keyName, endpoint: "kms.example:443"},
		"gcpkms://" + keyName + "?endpoint=http://[::1]:80/":    {name: keyName, endpoint: "[::1]:80", plain: true},
	} {
		if got, err := parseURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
	for uri, want := range map[string]string{
		"gcpkms://projects/p":                                  "does not name a key",
		"gcpkms://" + keyName + "/cryptoKeyVersions/1":         "names a version",
		"gcpkms://" + keyName + "?zone=x":                      "is unknown",
		"gcpkms://" + keyName + "?endpoint=a&endpoint=b":       "is there twice",
		"gcpkms://" + keyName + "?endpoint=%zz":                "cannot be read",
		"gcpkms://" + keyName + "?endpoint=http://kms.example": "plain http",
		"gcpkms://" + keyName + "?endpoint=https://u:p@kms":    "no user",
		"gcpkms://" + keyName + "?endpoint=https://kms/path":   "write https",
	} {
		if err := Check(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", uri, err, want)
		}
	}
}
