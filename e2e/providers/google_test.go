package providers

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/keypeers"
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

// startGoogleKMS starts a Google Cloud KMS with one key.
func startGoogleKMS(t *testing.T) (s *keypeers.Google, address string) {
	t.Helper()
	s = new(keypeers.Google)
	s.Add(googleKey)
	address, stop, err := s.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return s, address
}

func startGoogle(t *testing.T) *peer {
	s, address := startGoogleKMS(t)
	relay := newRelay(t, "tcp", address)
	fail := func(code codes.Code, message string) func(*testing.T) func() {
		return func(*testing.T) func() {
			s.Fail(status.Error(code, message))
			return func() { s.Fail(nil) }
		}
	}
	return &peer{
		uri: "gcpkms://" + googleKey + "?endpoint=http://" + relay.address, key: "seal", relay: relay,
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			return ownKey(t).Seal(nil, nil, plain, kc.AssociatedData("temporal-seal/v1/gcpkms\x00"))
		},
		disable:  fail(codes.FailedPrecondition, googleKey+"/cryptoKeyVersions/1 is not enabled, current state is: DISABLED."),
		deny:     fail(codes.PermissionDenied, "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied"),
		throttle: fail(codes.ResourceExhausted, "Quota exceeded"),
		expire:   fail(codes.Unauthenticated, "Request had invalid authentication credentials."),
		rotate:   func(*testing.T) { s.Add(googleKey) },
	}
}
