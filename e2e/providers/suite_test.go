package providers

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

// peer is a key service with one key, as a case gets it. A func that is nil stands for what the service does not have.
type peer struct {
	uri   string
	key   string // the part of the URI that names the key
	relay *relay // between the product and the service; nil for a key in a file
	// forge returns a data key and a wrapped form of it that somebody made who may not use the service.
	forge func(t *testing.T, plain []byte, kc crypto.KeyContext) (wrapped []byte)
	// Each brings about a state of the service, until undo is called.
	disable, deny, throttle, expire, skew func(t *testing.T) (undo func())
	rotate                                func(t *testing.T)
}

var (
	clinic = crypto.KeyContext{Namespace: "clinic-a", Key: "default"}

	errNotHere = errors.New("does not apply")
)

const patience = 30 * time.Second

// suiteCase is one case. It returns errNotHere where a service does not have what the case needs.
type suiteCase struct {
	name string
	run  func(t *testing.T, p *peer, key crypto.Provider) error
}

var suite = []suiteCase{
	{"generate", generate},
	{"wrap", wrap},
	{"unwrap", unwrap},
	{"wrong context", wrongContext},
	{"tampered", tampered},
	{"forged", forged},
	{"rotated", rotated},
	{"disabled", func(t *testing.T, p *peer, key crypto.Provider) error {
		return state(t, key, p.disable, crypto.KindRevoked)
	}},
	{"denied", func(t *testing.T, p *peer, key crypto.Provider) error {
		return state(t, key, p.deny, crypto.KindDenied)
	}},
	{"throttled", func(t *testing.T, p *peer, key crypto.Provider) error {
		return state(t, key, p.throttle, crypto.KindUnavailable)
	}},
	{"credentials expired", func(t *testing.T, p *peer, key crypto.Provider) error {
		return state(t, key, p.expire, crypto.KindUnavailable)
	}},
	{"clock skew", func(t *testing.T, p *peer, key crypto.Provider) error {
		return state(t, key, p.skew, crypto.KindUnavailable)
	}},
	{"slow", slow},
	{"half-open", halfOpen},
	{"concurrent", concurrent},
	{"a key for each namespace", namespaced},
}

func made(t *testing.T, key crypto.Provider) (plain, wrapped []byte) {
	t.Helper()
	plain, wrapped, err := key.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	return plain, wrapped
}

func generate(t *testing.T, _ *peer, key crypto.Provider) error {
	plain, wrapped := made(t, key)
	if len(plain) != 32 || len(wrapped) == 0 || len(wrapped) > 1024 || bytes.Contains(wrapped, plain) {
		t.Errorf("a data key of %d bytes, wrapped in %d", len(plain), len(wrapped))
	}
	if again, other := made(t, key); bytes.Equal(again, plain) || bytes.Equal(other, wrapped) {
		t.Error("two data keys are alike")
	}
	return nil
}

func wrap(t *testing.T, _ *peer, key crypto.Provider) error {
	plain, _ := made(t, key)
	wrapped, err := key.(crypto.Wrapper).WrapDataKey(t.Context(), plain, clinic)
	if err != nil {
		t.Fatal(err)
	}
	opens(t, key, wrapped, plain)
	return nil
}

func unwrap(t *testing.T, p *peer, key crypto.Provider) error {
	plain, wrapped := made(t, key)
	opens(t, key, wrapped, plain)
	another, err := keyservice.Open(t.Context(), p.uri)
	if err != nil {
		t.Fatal(err)
	}
	opens(t, another, wrapped, plain)
	if another.Ref() != key.Ref() {
		t.Error("the key has another reference when it is opened again")
	}
	return nil
}

func opens(t *testing.T, key crypto.Provider, wrapped, plain []byte) {
	t.Helper()
	if got, err := key.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("it does not unwrap to the data key: %d bytes, error %v", len(got), err)
	}
}

// sealer seals and opens payloads in one namespace, as the proxy does.
type sealer struct {
	keys      *keyring.Keyring
	namespace string
}

// newSealer knows the key by two names.
func newSealer(t *testing.T, uri, namespace string) sealer {
	t.Helper()
	keys, err := keyring.New(t.Context(), keyring.Options{Open: keyservice.Open,
		Keys: []keyring.KeyConfig{{Name: "default", Active: uri}, {Name: "another", Active: uri}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	keys.Confirm(namespace)
	return sealer{keys, namespace}
}

func (s sealer) seal(t *testing.T) []byte {
	t.Helper()
	key, _, err := s.keys.Sealer(t.Context(), s.namespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	var nonces envelope.Nonces
	nonces.Expect(1)
	defer nonces.Reset()
	sealed, err := key.AppendPayload(nil, secret, false, &nonces)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func (s sealer) open(ctx context.Context, payload []byte) error {
	sealed, marked, err := envelope.ParsePayload(payload)
	if err != nil || !marked {
		return fmt.Errorf("it is no sealed payload: %w", err)
	}
	out, _, err := s.keys.Open(ctx, nil, &sealed, s.namespace, new(keyring.Run))
	if err == nil && !bytes.Equal(out, secret) {
		return errors.New("it opens to another payload")
	}
	return err
}

// secret is a serialized Payload without metadata.
var secret = []byte("\x12\x05\"Ada\"")

// wrongContext moves an envelope to another namespace, with the name in its header changed to fit. The key service refuses
// it, or the id of the data key shows it.
func wrongContext(t *testing.T, p *peer, _ crypto.Provider) error {
	sealed := newSealer(t, p.uri, "clinic-a").seal(t)
	for _, b := range [][2]string{{"clinic-a", "clinic-b"}, {"default", "another"}} {
		namespace := "clinic-a"
		if b[0] == namespace {
			namespace = b[1]
		}
		err := newSealer(t, p.uri, namespace).open(t.Context(), bytes.Replace(sealed, []byte(b[0]), []byte(b[1]), 1))
		if kind := crypto.KindOf(err); kind != crypto.KindRejected && kind != crypto.KindTampered {
			t.Errorf("%s as %s: kind %v, want rejected or tampered: %v", b[0], b[1], kind, err)
		}
	}
	return nil
}

// refused reports whether a wrapped key was refused. AWS denies those of other keys; the keyring finds out which it is.
func refused(err error) bool {
	return crypto.KindOf(err) == crypto.KindRejected || crypto.KindOf(err) == crypto.KindDenied
}

// tampered changes a wrapped key, in 16 places and in its length.
func tampered(t *testing.T, _ *peer, key crypto.Provider) error {
	_, wrapped := made(t, key)
	try := func(what string, changed []byte) {
		t.Helper()
		if _, err := key.UnwrapDataKey(t.Context(), changed, clinic); !refused(err) {
			t.Errorf("%s of %d bytes: %v, want it rejected", what, len(wrapped), err)
		}
	}
	for i := range 16 {
		changed := bytes.Clone(wrapped)
		changed[i*(len(changed)-1)/15] ^= 1
		try("another bit", changed)
	}
	try("cut", wrapped[:len(wrapped)-1])
	try("longer", append(bytes.Clone(wrapped), 0))
	return nil
}

func forged(t *testing.T, p *peer, key crypto.Provider) error {
	plain := bytes.Repeat([]byte{7}, 32)
	if got, err := key.UnwrapDataKey(t.Context(), p.forge(t, plain, clinic), clinic); !refused(err) {
		t.Errorf("a wrapped key that somebody else made: %d bytes, error %v; want it rejected", len(got), err)
	}
	return nil
}

func rotated(t *testing.T, p *peer, key crypto.Provider) error {
	if p.rotate == nil {
		return errNotHere
	}
	plain, wrapped := made(t, key)
	p.rotate(t)
	opens(t, key, wrapped, plain)
	next, other := made(t, key)
	opens(t, key, other, next)
	opens(t, key, wrapped, plain)
	return nil
}

// state requires that a state of the service is an error of one kind, and passes.
func state(t *testing.T, key crypto.Provider, bring func(*testing.T) func(), want crypto.Kind) error {
	if bring == nil {
		return errNotHere
	}
	plain, wrapped := made(t, key)
	undo := bring(t)
	_, err := key.UnwrapDataKey(t.Context(), wrapped, clinic)
	if crypto.KindOf(err) != want {
		t.Errorf("unwrap: kind %v, want %v: %v", crypto.KindOf(err), want, err)
	}
	// Vault denies to make a key that is gone; a data key in use is probed by unwrapping it.
	_, _, err = key.GenerateDataKey(t.Context(), clinic)
	if kind := crypto.KindOf(err); kind != want && (want != crypto.KindRevoked || kind != crypto.KindDenied) {
		t.Errorf("generate: kind %v, want %v: %v", kind, want, err)
	}
	undo()
	recovers(t, key, wrapped, plain)
	return nil
}

func recovers(t *testing.T, key crypto.Provider, wrapped, plain []byte) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		got, err := key.UnwrapDataKey(ctx, wrapped, clinic)
		cancel()
		if err == nil && bytes.Equal(got, plain) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it does not recover: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// slow: a service that answers late is an outage, and the call ends with its deadline.
func slow(t *testing.T, p *peer, key crypto.Provider) error {
	if p.relay == nil {
		return errNotHere
	}
	plain, wrapped := made(t, key)
	undo := p.relay.slow(3 * time.Second)
	outage(t, key, wrapped)
	undo()
	recovers(t, key, wrapped, plain)
	return nil
}

// halfOpen: connections that stay open without an answer are given up, and a new one takes their place.
func halfOpen(t *testing.T, p *peer, key crypto.Provider) error {
	if p.relay == nil {
		return errNotHere
	}
	plain, wrapped := made(t, key)
	undo := p.relay.silent()
	outage(t, key, wrapped)
	undo()
	recovers(t, key, wrapped, plain)
	return nil
}

func outage(t *testing.T, key crypto.Provider, wrapped []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begin := time.Now()
	_, err := key.UnwrapDataKey(ctx, wrapped, clinic)
	if crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("kind %v, want unavailable: %v", crypto.KindOf(err), err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("a call with a deadline of a second took %v", took)
	}
}

// concurrent: many callers seal and open at once, with a keyring that has no data key yet.
func concurrent(t *testing.T, p *peer, key crypto.Provider) error {
	callers := 10_000
	if testing.Short() {
		callers = 1_000
	}
	sealed := newSealer(t, p.uri, "clinic-a").seal(t)
	fresh := newSealer(t, p.uri, "clinic-a")
	var all sync.WaitGroup
	failures := make(chan error, callers)
	for range callers {
		all.Go(func() {
			if err := fresh.open(t.Context(), sealed); err != nil {
				failures <- err
			}
		})
	}
	for range 50 { // and the service itself
		all.Go(func() {
			plain, wrapped, err := key.GenerateDataKey(t.Context(), clinic)
			if err == nil {
				var got []byte
				if got, err = key.UnwrapDataKey(t.Context(), wrapped, clinic); err == nil && !bytes.Equal(got, plain) {
					err = errors.New("unwrapped to another data key")
				}
			}
			if err != nil {
				failures <- err
			}
		})
	}
	all.Wait()
	if n := len(failures); n > 0 {
		t.Errorf("%d of %d callers failed, one with: %v", n, callers, <-failures)
	}
	return nil
}

// namespaced: {namespace} in a URI stands for the namespace that a payload is sealed in.
func namespaced(t *testing.T, p *peer, _ crypto.Provider) error {
	template := strings.Replace(p.uri, p.key, "{namespace}", 1)
	if template == p.uri {
		t.Fatalf("%s does not name %q", p.uri, p.key)
	}
	sealed := newSealer(t, template, p.key).seal(t)
	if err := newSealer(t, p.uri, p.key).open(t.Context(), sealed); err != nil {
		t.Errorf("the key of namespace %s is not the one of that name: %v", p.key, err)
	}
	return nil
}

// lengthPrefixed is how the tests write a text before others.
func lengthPrefixed(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
