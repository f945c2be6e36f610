package keystore

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// TestBackendWithoutParts: a backend that holds no keys of subjects, and none that expire, is a store without these parts.
func TestBackendWithoutParts(t *testing.T) {
	s := &Store{backend: struct{ backend }{}}
	if of := crypto.SubjectsOf(s); of != nil {
		t.Errorf("it has keys of subjects: %v", of)
	}
	if of := crypto.ExpiryOf(s); of != nil {
		t.Errorf("it has keys that expire: %v", of)
	}
}
