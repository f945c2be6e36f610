// Package localkey keeps a key encryption key in a file, for development and for small installations without a key
// service. Whoever reads the file reads every payload; whoever loses it loses them all.
//
// A key file is text:
//
//	# comments
//	temporal-seal-key-file 1
//	id <32 hex digits>
//	key <name> <time of creation, RFC 3339> <32 bytes, base64>
//	key <name> <time of creation, RFC 3339> <32 bytes, base64>
//
// The id is what envelopes name the file by; it stays when a key is added. The last key wraps new data keys, the
// earlier ones only unwrap. A wrapped data key is 60 bytes: a random 12-byte nonce and AES-256-GCM over the 32-byte
// data key, with the encryption context as associated data.
package localkey

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Scheme starts the URIs of this provider: local:<file>.
const Scheme = "local"

const (
	dataKeySize = 32
	wrappedSize = 12 + dataKeySize + 16
)

// Provider is an opened key file. Later changes to the file are not seen: open it again.
type Provider struct {
	uri  string
	ref  crypto.KEKRef
	keys []wrapper // the last one wraps
}

type wrapper struct{ gcm cipher.AEAD }

// Path gives the file that a URI of this scheme names.
func Path(uri string) (string, error) {
	path, ok := strings.CutPrefix(uri, Scheme+":")
	if !ok || path == "" {
		return "", fmt.Errorf("%q is no key file URI; write local:<file>", uri)
	}
	return path, nil
}

// Open reads a key file. It never makes one; see Create.
func Open(_ context.Context, uri string) (crypto.Provider, error) {
	path, err := Path(uri)
	if err != nil {
		return nil, &crypto.Error{Kind: crypto.KindNotConfigured, Op: "open key file", Err: err}
	}
	f, err := read(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; make it once with: proxy keys new %s", err, path)
		}
		return nil, &crypto.Error{Kind: crypto.KindNotConfigured, Op: "open key file", Err: err}
	}
	p := &Provider{uri: uri, ref: crypto.NewKEKRef(Scheme, f.id)}
	for _, k := range f.keys {
		w, err := newWrapper(k.secret)
		clear(k.secret)
		if err != nil {
			return nil, &crypto.Error{Kind: crypto.KindNotConfigured, Op: "open key file", Err: fmt.Errorf("%s: key %s: %w", path, k.name, err)}
		}
		p.keys = append(p.keys, w)
	}
	return p, nil
}

// newWrapper uses GCM with nonces drawn by the cryptographic module itself: the same bytes, and approved for FIPS 140.
func newWrapper(secret []byte) (wrapper, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return wrapper{}, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	return wrapper{gcm}, err
}

// Ref is derived from the id in the file.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// URI is the one that the file was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey draws a data key and wraps it with the file's last key.
func (p *Provider) GenerateDataKey(_ context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	plain = make([]byte, dataKeySize)
	rand.Read(plain)
	return plain, p.keys[len(p.keys)-1].gcm.Seal(nil, nil, plain, associatedData(kc)), nil
}

// UnwrapDataKey tries the file's keys, latest first: there are few, and a wrong one fails its tag.
func (p *Provider) UnwrapDataKey(_ context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	aad := associatedData(kc)
	if len(wrapped) == wrappedSize {
		for _, w := range slices.Backward(p.keys) {
			if plain, err := w.gcm.Open(nil, nil, wrapped, aad); err == nil {
				return plain, nil
			}
		}
	}
	return nil, &crypto.Error{Kind: crypto.KindRejected, Op: "unwrap data key", Key: kc.Key, Namespace: kc.Namespace,
		Err: fmt.Errorf("no key in %s opens it: it was wrapped elsewhere, for another namespace or key name, or changed", p.uri)}
}

// associatedData writes the encryption context unambiguously: sorted, each string after its length.
func associatedData(kc crypto.KeyContext) []byte {
	m := kc.EncryptionContext()
	aad := []byte("temporal-seal/v1/local\x00")
	for _, name := range slices.Sorted(maps.Keys(m)) {
		for _, s := range []string{name, m[name]} {
			aad = binary.BigEndian.AppendUint32(aad, uint32(len(s)))
			aad = append(aad, s...)
		}
	}
	return aad
}
