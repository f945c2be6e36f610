// Package foreign reads payloads that other tools encoded before this proxy stood in front of a namespace:
// the format of Temporal's encryption samples, of temporal-sa's cloud proxy and of Temporal's own proxy,
// and compressed payloads. It never writes any of them, and it never looks into an envelope of this
// product's.
//
// What these tools make is a chain of codecs, and exactly such a chain is taken off: at most one
// compression, then at most one encryption, then at most one compression. Whatever stands below comes out
// as it is.
//
// # Words
//
//   - [Format]: what a tool writes. [Source]: a format with its keys and namespaces, an entry of `foreign` in the config.
//   - [Namespace]: the sources that serve one namespace. Its Parse recognizes a payload, its Open decrypts it.
//   - [Run]: what one message has used of the limits on expanded bytes and on calls to key services.
//   - data key: the key of one or more payloads, which a key service has to unwrap. It is kept for a while.
//
// # Files
//
//	foreign.go   formats, sources, and which of them a namespace reads
//	open.go      Parse and Open: the chain of codecs
//	payload.go   payloads on the wire: reading metadata, and what is well-formed
//	compress.go  decompression within limits
//	datakeys.go  data keys: unwrapping, caching, outages
package foreign

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/glob"
)

// Format names what wrote a payload.
type Format string

const (
	// Samples is what the encryption samples of the Go, Python, TypeScript, .NET, Ruby and Java SDKs write,
	// and codecs made after them: AES-GCM over the serialized Payload, without associated data.
	Samples Format = "samples"
	// TemporalSA is temporal-sa/temporal-cloud-proxy: a data key from AWS KMS, and associated data in JSON.
	TemporalSA Format = "temporal-sa"
	// TemporalProxy is temporalio/temporal-proxy: a data key encrypted by a key service, without associated data.
	TemporalProxy Format = "temporal-proxy"
	// Zlib is what the SDK's own zlib codec writes.
	Zlib Format = "zlib"
	// Snappy is what the samples for snappy write.
	Snappy Format = "snappy"
	// Gzip is a gzip stream over the serialized Payload.
	Gzip Format = "gzip"
)

// KeyPrefix starts what policies see as the key of a foreign payload. No key of the product's own may be
// named so.
const KeyPrefix = "foreign:"

// encodingEncrypted marks the encrypted formats.
const encodingEncrypted = "binary/encrypted"

// encodings are those by which the formats are recognized.
var encodings = map[Format]string{
	Samples: encodingEncrypted, TemporalSA: encodingEncrypted, TemporalProxy: encodingEncrypted,
	Zlib: "binary/zlib", Snappy: "binary/snappy", Gzip: "binary/gzip",
}

// Known reports whether there is such a format.
func (f Format) Known() bool { return encodings[f] != "" }

// Keyed reports whether the format's keys come with the configuration.
func (f Format) Keyed() bool { return f == Samples }

// Wrapped reports whether each payload brings its data key, wrapped by a key service.
func (f Format) Wrapped() bool { return f == TemporalSA || f == TemporalProxy }

// Unwrap has a key service decrypt a wrapped data key under an encryption context. Its errors are as those
// of a crypto.Provider.
type Unwrap func(ctx context.Context, wrapped []byte, encryptionContext map[string]string) ([]byte, error)

// Source is one entry of `foreign` in the configuration.
type Source struct {
	// Name is what policies see, after KeyPrefix. Empty: the format.
	Name string
	// Namespaces in which the format is read, with * for any run of characters.
	Namespaces []string
	Format     Format
	// Keys of Samples, by the id that payloads name: 16, 24 or 32 bytes.
	Keys map[string][]byte
	// Unwrap is for the formats that are Wrapped, and KMS the URI of its key.
	Unwrap Unwrap
	KMS    string
	// SealedAs is for TemporalSA: the namespace that its proxy bound, where it is not the one of the call.
	SealedAs string
}

// Reader opens foreign payloads. It is safe for concurrent use; so is a nil Reader, which reads nothing.
type Reader struct {
	sources []source
	known   []string // the encodings of all sources
	keys    *dataKeys
}

type source struct {
	Source
	key   string // as policies see it
	aead  map[string]cipher.AEAD
	calls chan struct{} // a place for each call of its key service: one that does not answer keeps those of other sources from nothing
}

// New checks the sources.
func New(sources []Source) (*Reader, error) {
	r := &Reader{keys: newDataKeys(time.Now)}
	var errs []error
	for i := range sources {
		s, err := newSource(sources[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("foreign[%d]: %w", i, err))
			continue
		}
		r.sources = append(r.sources, s)
		r.known = append(r.known, encodings[s.Format])
	}
	return r, errors.Join(errs...)
}

func newSource(from Source) (s source, err error) {
	if from.Name == "" {
		from.Name = string(from.Format)
	}
	s = source{Source: from, key: KeyPrefix + from.Name, aead: map[string]cipher.AEAD{}, calls: make(chan struct{}, maxCalls)}
	switch {
	case !from.Format.Known():
		return s, fmt.Errorf("%q is not a format that is read here", from.Format)
	case from.Format.Keyed() != (len(from.Keys) > 0):
		return s, fmt.Errorf("keys belong to the format %s, and it needs some", Samples)
	case from.Format.Wrapped() != (from.Unwrap != nil):
		return s, fmt.Errorf("a KMS key belongs to the formats %s and %s, and they need one", TemporalSA, TemporalProxy)
	}
	for id, key := range from.Keys {
		if s.aead[id], err = newAEAD(key); err != nil {
			return s, fmt.Errorf("key %q: %w", id, err)
		}
	}
	s.Keys = nil
	return s, nil
}

// Namespace is what is read in one namespace. A nil Namespace reads nothing.
type Namespace struct {
	name    string
	reader  *Reader
	sources []*source
}

// For returns what is read in a namespace; nil if that is nothing.
func (r *Reader) For(namespace string) *Namespace {
	if r == nil {
		return nil
	}
	var n *Namespace
	for i := range r.sources {
		s := &r.sources[i]
		if !glob.MatchAny(s.Namespaces, namespace) {
			continue
		}
		if n == nil {
			n = &Namespace{name: strings.Clone(namespace), reader: r}
		}
		n.sources = append(n.sources, s)
	}
	return n
}

// Marked reports whether a serialized Payload could be opened as a foreign one in any namespace: payloads
// travel between namespaces, so which one's formats count is not known when they are sent. Whatever Parse
// recognizes is marked, and so is what holds one of the encodings in a form that not everyone reads alike.
func (r *Reader) Marked(payload []byte) bool {
	return r != nil && slices.ContainsFunc(r.known, func(encoding string) bool { return hasEncoding(payload, encoding) })
}

// fail returns an error about a payload of this namespace.
func (n *Namespace) fail(kind crypto.Kind, key, format string, args ...any) error {
	return crypto.KeyContext{Key: key, Namespace: n.name}.Internalf(kind, "open", format, args...)
}
