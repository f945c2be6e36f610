package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// scripted is a key service that answers as a test configures it. Its keys are shared by all providers with its name, so
// that two URIs can mean one key.
type scripted struct {
	uri string
	ref crypto.KEKRef

	mu       sync.Mutex
	blobs    map[string]blob // by wrapped key
	generate func(crypto.KeyContext) error
	unwrap   func(wrapped []byte, kc crypto.KeyContext) error
	block    chan struct{} // calls wait until it is closed
	calls    int
	busy     int
	busiest  int
}

type blob struct {
	plain [envelope.DataKeySize]byte
	kc    crypto.KeyContext
}

func newScripted(uri string) *scripted {
	return &scripted{uri: uri, ref: crypto.NewKEKRef("test", uri), blobs: make(map[string]blob)}
}

func (p *scripted) Ref() crypto.KEKRef { return p.ref }
func (p *scripted) URI() string        { return p.uri }

func (p *scripted) enter(ctx context.Context) error {
	p.mu.Lock()
	p.calls++
	p.busy++
	p.busiest = max(p.busiest, p.busy)
	block := p.block
	p.mu.Unlock()
	defer func() { p.mu.Lock(); p.busy--; p.mu.Unlock() }()
	if block == nil {
		return nil
	}
	select {
	case <-block:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *scripted) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	if err := p.enter(ctx); err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generate != nil {
		if err := p.generate(kc); err != nil {
			return nil, nil, err
		}
	}
	var b blob
	rand.Read(b.plain[:])
	b.kc = kc
	wrapped = make([]byte, 60)
	rand.Read(wrapped)
	p.blobs[string(wrapped)] = b
	return append([]byte(nil), b.plain[:]...), wrapped, nil
}

func (p *scripted) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unwrap != nil {
		if err := p.unwrap(wrapped, kc); err != nil {
			return nil, err
		}
	}
	b, ok := p.blobs[string(wrapped)]
	if !ok || b.kc != kc {
		return nil, &crypto.Error{Kind: crypto.KindRejected, Op: "kms.decrypt", Err: errors.New("InvalidCiphertextException")}
	}
	return append([]byte(nil), b.plain[:]...), nil
}

// answer makes every call end with err (nil: as it should).
func (p *scripted) answer(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generate = func(crypto.KeyContext) error { return err }
	p.unwrap = func([]byte, crypto.KeyContext) error { return err }
}

func (p *scripted) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// store is a set of scripted keys by URI.
type store map[string]*scripted

func (s store) open(_ context.Context, uri string) (crypto.Provider, error) {
	if p, ok := s[uri]; ok {
		return p, nil
	}
	return nil, &crypto.Error{Kind: crypto.KindRevoked, Op: "open key", Err: errors.New("NotFoundException: " + uri)}
}

func defaultStore() (store, *scripted) {
	p := newScripted("test:default")
	return store{p.uri: p}, p
}

func defaultKeys() []KeyConfig { return []KeyConfig{{Name: "default", Active: "test:default"}} }

func newKeyring(t testing.TB, opt Options) *Keyring {
	t.Helper()
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	k, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// ring is a Keyring with one key "default" for all namespaces, of which "ns" is confirmed.
func ring(t testing.TB) (*Keyring, *scripted) {
	t.Helper()
	s, p := defaultStore()
	k := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open})
	k.Confirm("ns")
	return k, p
}

func sealer(t testing.TB, k *Keyring, namespace, key string) *Sealer {
	t.Helper()
	s, _, err := k.Sealer(t.Context(), namespace, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func seal(t testing.TB, k *Keyring, payload string) []byte {
	t.Helper()
	out, err := sealer(t, k, "ns", "default").appendPayload(nil, []byte(payload), false)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(k *Keyring, carrier []byte, namespace string) (string, error) {
	return openIn(context.Background(), k, carrier, namespace)
}

func openIn(ctx context.Context, k *Keyring, carrier []byte, namespace string) (string, error) {
	s, marked, err := envelope.ParsePayload(carrier)
	if err != nil {
		return "", err
	}
	if !marked {
		return "", errors.New("the carrier is not marked")
	}
	out, _, err := k.Open(ctx, nil, &s, namespace, new(Run))
	return string(out), err
}

func wantKind(t testing.TB, err error, kind crypto.Kind) {
	t.Helper()
	if crypto.KindOf(err) != kind || err == nil {
		t.Errorf("error of kind %v: %v; want kind %v", crypto.KindOf(err), err, kind)
	}
}

func apiError(kind crypto.Kind, code string) error {
	return &crypto.Error{Kind: kind, Op: "kms", Err: errors.New(code)}
}

// vector is one envelope of testdata/envelope/vectors.json.
type vector struct {
	Name      string   `json:"name"`
	DataKey   hexBytes `json:"data_key"`
	KeyName   string   `json:"key_name"`
	Namespace string   `json:"namespace"`
	View      hexBytes `json:"view"`
	Plaintext hexBytes `json:"plaintext"`
	Envelope  hexBytes `json:"envelope"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	err := json.Unmarshal(b, &s)
	if err == nil {
		*h, err = hex.DecodeString(s)
	}
	return err
}

func vectors(t testing.TB) []vector {
	t.Helper()
	var file struct {
		Envelopes []vector `json:"envelopes"`
	}
	b, err := os.ReadFile("../../../testdata/envelope/vectors.json")
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	if err != nil || len(file.Envelopes) == 0 {
		t.Fatalf("%d vectors, error %v", len(file.Envelopes), err)
	}
	return file.Envelopes
}

// payloadWith puts a vector's envelope into the Payload of its form.
func payloadWith(v vector) []byte {
	if len(v.View) == 0 {
		return []byte(payloadOf(envelope.EncodingWhole, string(v.Envelope)))
	}
	entries := "\x0a" + lengthPrefixed("\x0a\x08encoding\x12"+lengthPrefixed(envelope.EncodingView)) +
		"\x0a" + lengthPrefixed("\x0a\x09sealed.v1\x12"+lengthPrefixed(string(v.Envelope)))
	return []byte(entries + "\x12" + lengthPrefixed(string(v.View)))
}

// The layout of an envelope as the documentation of package envelope draws it.
const (
	flagsOffset   = 1
	idOffset      = 2
	kekOffset     = 18
	lengthsOffset = 26
	namesOffset   = 31
	nonceSize     = 12
	tagSize       = 16
	padUnder      = 256
	padBlock      = 32

	flagZstd      = 1 << 2
	flagPadded    = 1 << 3
	flagReference = 1 << 4
	flagSubject   = 1 << 5
)

// span is a part of an envelope.
type span struct{ start, end int }

func fields(p ...string) envelope.Selection { return envelope.Selection{Fields: p} }

// appendPayload seals with nonces of its own.
func (s *Sealer) appendPayload(dst, payload []byte, compress bool) ([]byte, error) {
	return s.AppendPayload(dst, payload, compress, new(envelope.Nonces))
}

func (s *Sealer) appendView(payload []byte, sel envelope.Selection) ([]byte, error) {
	view, _, err := s.Envelope().AppendView(nil, payload, sel, new(envelope.Nonces))
	return view, err
}

func (s *Sealer) appendText(text []byte) ([]byte, error) {
	return s.Envelope().AppendText(nil, text, new(envelope.Nonces))
}

// forge writes an envelope under a data key, with any header and body, as somebody who knows the data key can. The
// context is that of the header.
func forge(t testing.TB, dataKey []byte, h *envelope.Header, body []byte) []byte {
	t.Helper()
	context := "\x00" + string(rune(len(h.Key))) + h.Key + "\x00" + string(rune(len(h.Namespace))) + h.Namespace
	key, err := hkdf.Expand(sha256.New, dataKey, "temporal-seal/v1/seal\x00"+context, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	env := envelope.AppendHeader(nil, h)
	return gcm.Seal(env, nil, body, env)
}

// headerOf returns the header of what seal makes, and its data key.
func headerOf(t testing.TB, k *Keyring, p *scripted) (h envelope.Header, dataKey []byte) {
	t.Helper()
	sealed, _, err := envelope.ParsePayload(seal(t, k, "x"))
	if err != nil {
		t.Fatal(err)
	}
	b := p.blobs[string(sealed.Header.Wrapped)]
	return *sealed.Header, b.plain[:]
}

// payloadOf writes a Payload as SDKs do.
func payloadOf(encoding, data string) string {
	entry := "\x0a\x08encoding\x12" + lengthPrefixed(encoding)
	return "\x0a" + lengthPrefixed(entry) + "\x12" + lengthPrefixed(data)
}

func lengthPrefixed(s string) string {
	n := uint64(len(s))
	var b strings.Builder
	for ; n >= 0x80; n >>= 7 {
		b.WriteByte(byte(n) | 0x80)
	}
	b.WriteByte(byte(n))
	b.WriteString(s)
	return b.String()
}

const waitForTick = 2 * time.Second

func testHealth() *keyhealth.Options {
	return &keyhealth.Options{Log: slog.New(slog.DiscardHandler)}
}

// change prepares and commits other keys, if all active ones answer.
func change(k *Keyring, ctx context.Context, keys []KeyConfig, grants []Grant, revoked []crypto.KeyID) error {
	set, err := k.Prepare(ctx, keys, grants, revoked)
	if err == nil {
		err = set.AllAnswer()
	}
	if err == nil {
		k.Commit(set)
	}
	return err
}
