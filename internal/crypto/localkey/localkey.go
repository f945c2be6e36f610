// Package localkey keeps a key encryption key in a file, for development and for small installations without a key
// service. The file opens every payload: if it leaks, all can be read, and if it is lost, none can.
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
//
//	localkey.go  the provider: wraps and unwraps data keys, takes up a rotated file
//	file.go      the key file: created, rotated, read and written
package localkey

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Scheme starts the URIs of this provider: local:<file>.
const Scheme = "local"

// label starts the associated data of wrapped data keys.
const label = "temporal-seal/v1/local\x00"

const (
	dataKeySize = 32
	wrappedSize = 12 + dataKeySize + 16
)

// Provider is an opened key file. A rotation of the file is noticed when a data key is made, and when one can't be
// unwrapped; if the file can't be read then, the keys that were in it go on.
type Provider struct {
	uri, path string
	id        string
	ref       crypto.KEKRef

	mu   sync.Mutex
	seen fs.FileInfo
	keys []cipher.AEAD // the last one wraps
}

// Path returns the file that a URI of this scheme names.
func Path(uri string) (string, error) {
	path, ok := strings.CutPrefix(uri, Scheme+":")
	if !ok || path == "" {
		return "", fmt.Errorf("%q is not the URI of a key file; write local:<file>", uri)
	}
	return path, nil
}

// Check returns what is wrong with a URI, without reading the file.
func Check(uri string) error {
	_, err := Path(uri)
	return err
}

// Open reads a key file. It never makes one; see Create.
func Open(_ context.Context, uri string) (crypto.Provider, error) {
	path, err := Path(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, "open key file", "%w", err)
	}
	p := &Provider{uri: uri, path: path}
	if err := p.load(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w; make it once with: temporal-seal keys new %s", err, path)
		}
		return nil, crypto.Internalf(crypto.KindNotConfigured, "open key file", "%w", err)
	}
	p.ref = crypto.NewKEKRef(Scheme, p.id)
	return p, nil
}

// load takes the keys in the file. A file with another id is another key, and no rotation of this one.
func (p *Provider) load() error {
	f, info, err := read(p.path)
	if err != nil {
		return err
	}
	var keys []cipher.AEAD
	for _, k := range f.keys {
		gcm, err := newGCM(k.secret)
		clear(k.secret)
		if err != nil {
			return fmt.Errorf("%s: key %s: %w", p.path, k.name, err)
		}
		keys = append(keys, gcm)
	}
	if p.id == "" || p.id == f.id {
		p.id, p.keys, p.seen = f.id, keys, info
	}
	return nil
}

// current returns the keys in the file as it is now. If it cannot be read, the earlier ones go on.
func (p *Provider) current() []cipher.AEAD {
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := os.Stat(p.path)
	if err == nil && !(os.SameFile(info, p.seen) && info.ModTime().Equal(p.seen.ModTime())) {
		_ = p.load()
	}
	return p.keys
}

// loaded returns the keys as they were last read.
func (p *Provider) loaded() []cipher.AEAD {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys
}

// newGCM makes a GCM with nonces drawn by the cryptographic module itself: the same bytes, and approved for FIPS 140.
func newGCM(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Ref is derived from the id in the file.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// URI is the one that the file was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey draws a data key and wraps it with the file's last key.
func (p *Provider) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	return crypto.DrawDataKey(ctx, p, kc)
}

// WrapDataKey wraps with the file's last key. It never fails.
func (p *Provider) WrapDataKey(_ context.Context, plain []byte, kc crypto.KeyContext) ([]byte, error) {
	keys := p.current()
	return keys[len(keys)-1].Seal(nil, nil, plain, kc.AssociatedData(label)), nil
}

// UnwrapDataKey tries the file's keys, latest first: there are few, and a wrong one fails its tag.
func (p *Provider) UnwrapDataKey(_ context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	aad := kc.AssociatedData(label)
	for _, keys := range [...]func() []cipher.AEAD{p.loaded, p.current} {
		for _, gcm := range slices.Backward(keys()) {
			if plain, err := gcm.Open(nil, nil, wrapped, aad); err == nil && len(wrapped) == wrappedSize {
				return plain, nil
			}
		}
	}
	return nil, kc.Internalf(crypto.KindRejected, "unwrap data key",
		"no key in %s opens it: it was wrapped elsewhere, for another namespace or key name, or changed", p.uri)
}
