package keypeers

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"hash/crc32"
	"net"
	"sync"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Google is a stand-in of Google Cloud KMS, written from the published gRPC definition.
type Google struct {
	kmspb.UnimplementedKeyManagementServiceServer

	mu   sync.Mutex
	err  error
	keys map[string][]cipher.AEAD // versions of each key by its resource name; the last one is primary
}

// Add makes a key, or a new version of it.
func (s *Google) Add(name string) {
	block, err := aes.NewCipher(randomKey())
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has blocks of 16 bytes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string][]cipher.AEAD{}
	}
	s.keys[name] = append(s.keys[name], gcm)
}

func randomKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

// Fail makes the service answer with an error, or properly again for nil.
func (s *Google) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Serve serves on a free port until stop is called.
func (s *Google) Serve() (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	g := grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	return l.Addr().String(), g.Stop, nil
}

func (s *Google) ready(name string) error {
	if len(s.keys[name]) == 0 {
		return status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	}
	return s.err
}

func crc32c(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

func (s *Google) GetCryptoKey(_ context.Context, in *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err, state := s.ready(in.Name), kmspb.CryptoKeyVersion_ENABLED
	if status.Code(err) == codes.FailedPrecondition {
		err, state = nil, kmspb.CryptoKeyVersion_DISABLED
	}
	return &kmspb.CryptoKey{Name: in.Name, Purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT, Primary: &kmspb.CryptoKeyVersion{State: state}}, err
}

func (s *Google) Encrypt(_ context.Context, in *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(in.Name); err != nil {
		return nil, err
	}
	if in.PlaintextCrc32C.GetValue() != crc32c(in.Plaintext).Value ||
		in.AdditionalAuthenticatedDataCrc32C.GetValue() != crc32c(in.AdditionalAuthenticatedData).Value {
		return nil, status.Error(codes.InvalidArgument, "The checksum in a field _crc32c did not match the data.")
	}
	versions := s.keys[in.Name]
	out := versions[len(versions)-1].Seal(nil, nil, in.Plaintext, in.AdditionalAuthenticatedData)
	return &kmspb.EncryptResponse{Ciphertext: out, CiphertextCrc32C: crc32c(out),
		VerifiedPlaintextCrc32C: true, VerifiedAdditionalAuthenticatedDataCrc32C: true}, nil
}

func (s *Google) Decrypt(_ context.Context, in *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(in.Name); err != nil {
		return nil, err
	}
	for _, version := range s.keys[in.Name] {
		if plain, err := version.Open(nil, nil, in.Ciphertext, in.AdditionalAuthenticatedData); err == nil {
			return &kmspb.DecryptResponse{Plaintext: plain, PlaintextCrc32C: crc32c(plain)}, nil
		}
	}
	return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
}
