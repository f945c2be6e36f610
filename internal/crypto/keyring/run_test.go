package keyring

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// What one envelope needed must not open the next one after its key was withdrawn.
func TestNotedOpenerIsNotTrustedAfterReload(t *testing.T) {
	k, _ := ring(t)
	var reader envelope.Reader
	var first envelope.Sealed
	_, err := reader.ParsePayload(&first, seal(t, k, payloadOf("json/plain", "one")))
	if err != nil {
		t.Fatal(err)
	}
	var run Run
	if _, _, err := k.Open(t.Context(), nil, &first, "ns", &run); err != nil || run.recent[0].dk == nil {
		t.Fatalf("opener %v, error %v", run.recent[0], err)
	}
	revoking := *k.core.set.Load()
	revoking.revoked = map[crypto.KeyID]bool{first.Header.ID: true}
	k.core.set.Store(&revoking)
	if _, _, err := k.Open(t.Context(), nil, &first, "ns", &run); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("opened after its data key was revoked: %v", err)
	}
}
