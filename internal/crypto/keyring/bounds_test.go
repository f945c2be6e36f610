package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// TestInventedSaltsPushNothingOut: anybody can put salts into envelopes; only a right tag gets one remembered.
func TestInventedSaltsPushNothingOut(t *testing.T) {
	k, _ := ring(t)
	carrier := seal(t, k, "payload")
	if _, err := open(k, carrier, "ns"); err != nil {
		t.Fatal(err)
	}
	sealed, _, err := envelope.ParsePayload(carrier)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		env := bytes.Clone(sealed.Envelope())
		copy(env[saltOffset:], fmt.Sprintf("invented%08d", i))
		if _, err := open(k, []byte(payloadOf(envelope.EncodingWhole, string(env))), "ns"); crypto.KindOf(err) != crypto.KindTampered {
			t.Fatal(err)
		}
	}
	if n := k.opening.openers.Len(); n != 1 {
		t.Errorf("%d payload keys in memory, want the good one alone", n)
	}
}

func TestCachesAreBounded(t *testing.T) {
	k, p := ring(t)
	s := sealer(t, k, "ns", "default")
	for range 2 * maxOpeners {
		s.current.Store(nil)
		if _, err := open(k, seal(t, k, "x"), "ns"); err != nil {
			t.Fatal(err)
		}
	}
	if n, limit := k.opening.openers.Len(), maxOpeners; n > limit {
		t.Errorf("%d payload keys in memory, want at most %d", n, limit)
	}
	kk := s.dk.kek
	for i := range 2 * maxDataKeys {
		dk, err := newDataKey(kk, crypto.KeyContext{Namespace: "ns", Key: "default"}, make([]byte, envelope.DataKeySize), fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		k.opening.add(dk)
	}
	if n := k.opening.keys.Len(); n != maxDataKeys {
		t.Errorf("%d data keys in memory, want %d", n, maxDataKeys)
	}
	if p.count() != 2 {
		t.Errorf("%d calls to the key service", p.count())
	}
}

// TestDroppedKeysAreCleared: the bytes of a data key are zero once nobody can use it any more.
func TestDroppedKeysAreCleared(t *testing.T) {
	t.Cleanup(stockGenerators)
	k, _ := ring(t)
	secret := func() *[envelope.DataKeySize]byte { return sealer(t, k, "ns", "default").dk.secret }()
	if *secret == [envelope.DataKeySize]byte{} {
		t.Fatal("no key to begin with")
	}
	k.drop(func(*dataKey) bool { return true })
	for range 100 {
		runtime.GC()
		if *secret == [envelope.DataKeySize]byte{} {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the key's bytes are still there")
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
