package keyring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestInventedIDsPushNothingOut: anybody can put key ids into envelopes. Only the id of the wrapped key gets a key
// remembered, and the others cost few calls.
func TestInventedIDsPushNothingOut(t *testing.T) {
	k, p := ring(t)
	carrier := seal(t, k, "payload")
	sealed, _, err := envelope.ParsePayload(carrier)
	if err != nil {
		t.Fatal(err)
	}
	before := p.count()
	var run Run
	kinds := map[crypto.Kind]int{}
	for i := range 10_000 {
		env := bytes.Clone(sealed.Envelope())
		copy(env[idOffset:], fmt.Sprintf("invented%08d", i))
		s, _, err := envelope.ParsePayload([]byte(payloadOf(envelope.EncodingWhole, string(env))))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.Open(t.Context(), nil, &s, "ns", &run)
		kinds[crypto.KindOf(err)]++
	}
	if n := p.count() - before; n != maxRefused || kinds[crypto.KindTampered] != maxRefused || kinds[crypto.KindUnavailable] != 10_000-maxRefused {
		t.Errorf("%d calls for one message, answers %v; want %d calls", n, kinds, maxRefused)
	}
	if n := len(k.opening.keys.m); n != 1 {
		t.Errorf("%d data keys in memory, want the good one alone", n)
	}
	if _, hit, err := k.Open(t.Context(), nil, &sealed, "ns", &run); err != nil || !hit {
		t.Errorf("the good one: hit %v, error %v", hit, err)
	}
}

func TestCachesAreBounded(t *testing.T) {
	k, p := ring(t)
	s := sealer(t, k, "ns", "default")
	kk := s.dk.kek
	used := 0
	for i := range 2 * maxDataKeys {
		secret := binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i))
		dk, err := newDataKey(kk, crypto.KeyContext{Namespace: "ns", Key: "default"}, secret, fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		k.opening.keys.add(dk)
		if i < 100 {
			dk.used.Store(math.MaxInt64) // in use all the time
		}
	}
	for _, dk := range k.opening.keys.m {
		if dk.used.Load() == math.MaxInt64 {
			used++
		}
	}
	if n := len(k.opening.keys.m); n != maxDataKeys || used < 99 {
		t.Errorf("%d data keys in memory, want %d; %d of the 100 that are in use", n, maxDataKeys, used)
	}
	if p.count() != 2 {
		t.Errorf("%d calls to the key service", p.count())
	}
}

// TestKeysAreNotKept: of a data key nothing stays but what is derived from it, and that goes when the key is dropped.
func TestKeysAreNotKept(t *testing.T) {
	p := &retaining{scripted: newScripted("test:default")}
	k := newKeyring(t, Options{Keys: defaultKeys(), Open: func(context.Context, string) (crypto.Provider, error) { return p, nil }})
	k.Confirm("ns")
	s := sealer(t, k, "ns", "default")
	if len(p.given) != 2 {
		t.Fatalf("%d data keys from the key service, want one that was made and one that was unwrapped", len(p.given))
	}
	for _, plain := range p.given {
		if !bytes.Equal(plain, make([]byte, envelope.DataKeySize)) {
			t.Error("a data key from the key service was not cleared")
		}
	}
	gone := make(chan struct{})
	runtime.AddCleanup(s.dk.cipher.Load(), func(int) { close(gone) }, 0)
	s = nil
	k.drop(func(*dataKey) bool { return true })
	for range 100 {
		runtime.GC()
		select {
		case <-gone:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("the sealing key of a dropped data key is still there")
}

// retaining is a key service that keeps the plain data keys which it gave.
type retaining struct {
	*scripted
	given [][]byte
}

func (p *retaining) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	plain, wrapped, err = p.scripted.GenerateDataKey(ctx, kc)
	p.given = append(p.given, plain)
	return plain, wrapped, err
}

func (p *retaining) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	plain, err := p.scripted.UnwrapDataKey(ctx, wrapped, kc)
	p.given = append(p.given, plain)
	return plain, err
}

func TestCallsAreTraced(t *testing.T) {
	type spanKey struct{}
	var spans []string
	s, p := defaultStore()
	k := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open, Realm: "eu",
		Trace: func(ctx context.Context, op string, kc crypto.KeyContext) (context.Context, func(error)) {
			parent, _ := ctx.Value(spanKey{}).(string)
			return ctx, func(err error) {
				spans = append(spans, fmt.Sprint(op, " ", kc, " ", crypto.KindOf(err), " in ", parent))
			}
		}})
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), spanKey{}, "call"), 50*time.Millisecond)
	defer cancel()
	if _, _, err := k.Sealer(ctx, "ns", "default"); err != nil {
		t.Fatal(err)
	}
	p.answer(errors.New("no answer"))
	if _, _, err := k.Sealer(ctx, "other", "default"); err == nil {
		t.Fatal("no error")
	}
	k.Close()
	want := []string{"kms.generate_data_key {eu/ns default} unknown in call", "kms.decrypt {eu/ns default} unknown in call",
		"kms.generate_data_key {eu/other default} unavailable in call"}
	if !slices.Equal(spans[:3], want) {
		t.Errorf("spans %q, want %q first", spans, want)
	}
}
