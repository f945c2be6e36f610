// Package crypto defines what a key service is: the Provider interface, the context that a data key is bound to, and the
// kinds of errors that decide what happens to a payload. It knows no envelope and no particular key service.
//
// The packages below it:
//
//	envelope    the format of what is sealed
//	keyring     the life of data keys: made, renewed, looked up, dropped
//	keyhealth   whether a key encryption key may be used while its service is away or refuses
//	keyservice  the list of key services; its comment says where a new one goes
//	awskms, azurekeyvault, gcpkms, vault, plugin, localkey  the key services
//	keystore    a database with wrapped data keys; its comment says where a new kind goes
//	awsclient   the settings of the AWS SDK, for awskms and keystore
//
// The files of this one:
//
//	provider.go  key services: Provider, and what some of them can do beside it; KEKRef, KeyID, KeyContext
//	errors.go    the kinds of errors, and what callers see of one
//	store.go     key stores: KeyStore and its rows; subject.go: keys of subjects in one; life.go: keys in one that expire
//	newest.go    key services whose newest version stands for the key; shared.go: the client that all keys of one share
package crypto

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// KEKRef names a key encryption key in an envelope's header. It only chooses among the configured ones.
type KEKRef [8]byte

// NewKEKRef derives the reference from a provider's scheme and the key's stable id: for awskms "<account>:<key id>"
// (no region, replicas of a multi-Region key share it), for local the id of the key file.
func NewKEKRef(scheme, stableID string) KEKRef {
	sum := sha256.Sum256([]byte("temporal-seal/v1/kek\x00" + scheme + "\x00" + stableID))
	return KEKRef(sum[:8])
}

// String is the reference in hex.
func (r KEKRef) String() string { return hex.EncodeToString(r[:]) }

// KeyID names a data key in envelopes and wherever one is revoked. It is derived from the key and from what the key is
// for, so that a key which was moved or renamed does not match its id.
type KeyID [16]byte

// String is the id in hex.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// Provider is one key encryption key in some key service. Its methods return *Error with a [Kind]:
// KindUnavailable for what may pass by itself; KindRevoked, KindDenied, KindRejected and KindNotConfigured for what stays
// until somebody changes something. Any other error counts as unavailable, since nothing is dropped or lost for a reason
// that is not understood. Implementations are safe for concurrent use.
type Provider interface {
	// Ref is what envelopes name this key by.
	Ref() KEKRef
	// URI is for logs and errors. It holds no secret.
	URI() string
	// GenerateDataKey makes a fresh 32-byte data key, bound to kc.
	GenerateDataKey(ctx context.Context, kc KeyContext) (plain, wrapped []byte, err error)
	// UnwrapDataKey returns the data key, if wrapped was made by this key for the same kc.
	UnwrapDataKey(ctx context.Context, wrapped []byte, kc KeyContext) ([]byte, error)
}

// Wrapper is a Provider that wraps a data key which exists, so that a data key can be moved to another key encryption key.
type Wrapper interface {
	// WrapDataKey wraps a 32-byte data key, bound to kc, as GenerateDataKey does.
	WrapDataKey(ctx context.Context, plain []byte, kc KeyContext) (wrapped []byte, err error)
}

// WrapChecker is a Provider that opens although it may wrap nothing at the moment.
type WrapChecker interface {
	// CheckWrap returns why nothing can be wrapped now.
	CheckWrap(ctx context.Context) error
}

// Decrypter is a key that decrypts what another tool had it encrypt.
type Decrypter interface {
	// Decrypt decrypts a data key that is bound to the context, nil for none. Its errors are those of a Provider.
	Decrypt(ctx context.Context, wrapped []byte, encryptionContext map[string]string) ([]byte, error)
}

// DataKeySize is the length of a data key.
const DataKeySize = 32

// DrawDataKey draws a data key and has it wrapped, for key services that make none themselves.
func DrawDataKey(ctx context.Context, w Wrapper, kc KeyContext) (plain, wrapped []byte, err error) {
	plain = make([]byte, DataKeySize)
	rand.Read(plain) // never fails: the runtime ends the process if the system has no randomness
	if wrapped, err = w.WrapDataKey(ctx, plain, kc); err != nil {
		clear(plain)
		return nil, nil, err
	}
	return plain, wrapped, nil
}

// ARNOf returns the ARN of the key that a provider's URI means, also where the URI names an alias, which may mean another key
// later. It is "" for key services that have no ARNs.
func ARNOf(p Provider) string {
	if named, ok := p.(interface{ ARN() string }); ok {
		return named.ARN()
	}
	return ""
}

// KeyContext is what a data key is bound to: the namespace as envelopes name it (with its realm) and the key name.
type KeyContext struct{ Namespace, Key string }

// EncryptionContext is the context in the form that key services take, where IAM conditions and audit logs see it.
func (kc KeyContext) EncryptionContext() map[string]string {
	return map[string]string{
		"temporal-seal:namespace": contextValue(kc.Namespace),
		"temporal-seal:key":       contextValue(kc.Key),
	}
}

// AssociatedData writes the context unambiguously after a label: sorted, each string after its length. It is for key
// services that bind bytes.
func (kc KeyContext) AssociatedData(label string) []byte {
	m := kc.EncryptionContext()
	aad := []byte(label)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		for _, s := range []string{name, m[name]} {
			aad = binary.BigEndian.AppendUint32(aad, uint32(len(s)))
			aad = append(aad, s...)
		}
	}
	return aad
}

// Errorf makes an error about the context; see the function Errorf.
func (kc KeyContext) Errorf(kind Kind, op, format string, args ...any) *Error {
	return Errorf(kind, op, format, args...).In(kc.Key, kc.Namespace)
}

// Internalf makes an error about the context; see the function Internalf.
func (kc KeyContext) Internalf(kind Kind, op, format string, args ...any) *Error {
	return Internalf(kind, op, format, args...).In(kc.Key, kc.Namespace)
}

// contextValue keeps plain names readable and hashes the others, which KMS would refuse or an IAM condition mistake.
func contextValue(s string) string {
	if len(s) >= 1 && len(s) <= 256 && strings.Trim(s, plainBytes) == "" {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

const plainBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@=+-"
