package providers

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"hash/crc32"
	"net"
	"sync"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

var google = provider{
	name:    "Google Cloud KMS",
	start:   startGoogle,
	binds:   "the service, as additional authenticated data",
	forging: "the key in the service",
	outage:  "status codes, reasons and states of versions",
	rotates: "opens, while the version that wrapped it is enabled",
	needs:   "`cloudkms.cryptoKeyVersions.useToEncrypt`, `useToDecrypt`, `cloudkms.cryptoKeys.get`",
	against: "a stub written from the published gRPC definition, checked with PyPI's google-cloud-kms",
}

const googleKey = "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/seal"

// googleKMS is a Google Cloud KMS with one key, of several versions.
type googleKMS struct {
	kmspb.UnimplementedKeyManagementServiceServer

	mu       sync.Mutex
	err      error
	versions []cipher.AEAD // the last one is primary
}

func (s *googleKMS) set(err error) func(*testing.T) func() {
	return func(*testing.T) func() {
		s.fail(err)
		return func() { s.fail(nil) }
	}
}

func (s *googleKMS) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *googleKMS) rotate(t *testing.T) {
	secret := make([]byte, 32)
	rand.Read(secret)
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions = append(s.versions, gcm)
}

func (s *googleKMS) ready(name string) error {
	if name != googleKey {
		return status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	}
	return s.err
}

func crc32c(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

func (s *googleKMS) GetCryptoKey(_ context.Context, in *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err, state := s.ready(in.Name), kmspb.CryptoKeyVersion_ENABLED
	if status.Code(err) == codes.FailedPrecondition {
		err, state = nil, kmspb.CryptoKeyVersion_DISABLED
	}
	return &kmspb.CryptoKey{Name: in.Name, Purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT, Primary: &kmspb.CryptoKeyVersion{State: state}}, err
}

func (s *googleKMS) Encrypt(_ context.Context, in *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(in.Name); err != nil {
		return nil, err
	}
	if in.PlaintextCrc32C.GetValue() != crc32c(in.Plaintext).Value ||
		in.AdditionalAuthenticatedDataCrc32C.GetValue() != crc32c(in.AdditionalAuthenticatedData).Value {
		return nil, status.Error(codes.InvalidArgument, "The checksum in a field _crc32c did not match the data.")
	}
	out := s.versions[len(s.versions)-1].Seal(nil, nil, in.Plaintext, in.AdditionalAuthenticatedData)
	return &kmspb.EncryptResponse{Ciphertext: out, CiphertextCrc32C: crc32c(out),
		VerifiedPlaintextCrc32C: true, VerifiedAdditionalAuthenticatedDataCrc32C: true}, nil
}

func (s *googleKMS) Decrypt(_ context.Context, in *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(in.Name); err != nil {
		return nil, err
	}
	for _, version := range s.versions {
		if plain, err := version.Open(nil, nil, in.Ciphertext, in.AdditionalAuthenticatedData); err == nil {
			return &kmspb.DecryptResponse{Plaintext: plain, PlaintextCrc32C: crc32c(plain)}, nil
		}
	}
	return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
}

func startGoogleKMS(t *testing.T) (s *googleKMS, address string) {
	s = new(googleKMS)
	s.rotate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return s, l.Addr().String()
}

func startGoogle(t *testing.T) *peer {
	s, address := startGoogleKMS(t)
	relay := newRelay(t, "tcp", address)
	return &peer{
		uri: "gcpkms://" + googleKey + "?endpoint=http://" + relay.address, key: "seal", relay: relay,
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			return ownKey(t).Seal(nil, nil, plain, kc.AssociatedData("temporal-seal/v1/gcpkms\x00"))
		},
		disable:  s.set(status.Error(codes.FailedPrecondition, googleKey+"/cryptoKeyVersions/1 is not enabled, current state is: DISABLED.")),
		deny:     s.set(status.Error(codes.PermissionDenied, "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied")),
		throttle: s.set(status.Error(codes.ResourceExhausted, "Quota exceeded")),
		expire:   s.set(status.Error(codes.Unauthenticated, "Request had invalid authentication credentials.")),
		rotate:   s.rotate,
	}
}
