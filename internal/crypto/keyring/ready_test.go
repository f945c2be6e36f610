package keyring

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// phiAndDefault is a Keyring with the keys "phi" and "default"; "ns" is confirmed.
func phiAndDefault(t *testing.T) (k *Keyring, phi, byDefault *scripted) {
	t.Helper()
	phi, byDefault = newScripted("test:phi"), newScripted("test:default")
	k = newKeyring(t, Options{Open: store{phi.uri: phi, byDefault.uri: byDefault}.open, Keys: []KeyConfig{
		{Name: "phi", Active: phi.uri, Namespaces: []string{"ns", "clinic"}}, {Name: "default", Active: byDefault.uri}}})
	for _, ns := range []string{"ns", "clinic", "billing"} {
		k.Confirm(ns)
	}
	return k, phi, byDefault
}

var timedOut = apiError(crypto.KindUnavailable, "timeout")

// TestReadyMindsTheKeysInUse: a key that a namespace seals with is one that its tasks need, and no other namespace's.
func TestReadyMindsTheKeysInUse(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, phi, _ := phiAndDefault(t)
		ctx := t.Context()
		phi.answer(timedOut)
		if err := k.Ready(ctx, "ns", nil); err != nil {
			t.Fatalf("nobody uses the key that is out of reach: %v", err)
		}
		_, _, err := k.Sealer(ctx, "ns", "phi")
		wantKind(t, err, crypto.KindUnavailable)
		wantKind(t, k.Ready(ctx, "ns", nil), crypto.KindUnavailable)
		for _, other := range []string{"clinic", "billing"} {
			if err := k.Ready(ctx, other, nil); err != nil {
				t.Errorf("%s does not use the key: %v", other, err)
			}
		}
		// However long it takes: with each poll that were let through a task would be lost.
		time.Sleep(5 * time.Hour)
		wantKind(t, k.Ready(ctx, "ns", nil), crypto.KindUnavailable)
		phi.answer(nil)
		if err := k.Ready(ctx, "ns", nil); err != nil {
			t.Errorf("the key is back: %v", err)
		}
		phi.answer(apiError(crypto.KindRevoked, "DisabledException"))
		time.Sleep(2 * time.Minute)
		wantKind(t, k.Ready(ctx, "ns", nil), crypto.KindRevoked)
		time.Sleep(25 * time.Hour)
		if err := k.Ready(ctx, "ns", nil); err != nil {
			t.Errorf("the key is not in use any more: %v", err)
		}
	})
}

// TestReadyMindsTheKeysOfEnvelopes: what could not be opened is of a key that its namespace needs.
func TestReadyMindsTheKeysOfEnvelopes(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, phi, byDefault := phiAndDefault(t)
		carrier, err := sealer(t, k, "ns", "phi").appendPayload(nil, []byte("payload"), false)
		if err != nil {
			t.Fatal(err)
		}
		other := newKeyring(t, Options{Keys: k.core.opt.Keys, Open: store{phi.uri: phi, byDefault.uri: byDefault}.open})
		other.Confirm("ns")
		phi.answer(timedOut)
		ctx := t.Context()
		if err := other.Ready(ctx, "ns", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := openIn(ctx, other, carrier, "ns"); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Fatal(err)
		}
		wantKind(t, other.Ready(ctx, "ns", nil), crypto.KindUnavailable)
		// A proxy that may open and not seal goes on.
		phi.answer(nil)
		phi.mu.Lock()
		phi.generate = func(crypto.KeyContext) error { return apiError(crypto.KindDenied, "AccessDeniedException") }
		phi.mu.Unlock()
		if err := other.Ready(ctx, "ns", nil); err != nil {
			t.Errorf("the key opens: %v", err)
		}
	})
}

// TestReadyFetchesWhatThePolicyNames: ahead, and without stopping for long a namespace that does not need it.
func TestReadyFetchesWhatThePolicyNames(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, phi, _ := phiAndDefault(t)
		ctx, named := t.Context(), []string{"phi"}
		if err := k.Ready(ctx, "ns", named); err != nil {
			t.Fatal(err)
		}
		phi.answer(timedOut)
		if _, hit, err := k.Sealer(ctx, "ns", "phi"); err != nil || !hit {
			t.Errorf("it was not fetched ahead: %v", err)
		}
		wantKind(t, k.Ready(ctx, "clinic", named), crypto.KindUnavailable)
		time.Sleep(namedPatience)
		calls := phi.count()
		for range 100 {
			if err := k.Ready(ctx, "clinic", named); err != nil {
				t.Fatalf("nothing has used it: %v", err)
			}
		}
		synctest.Wait()
		if n := phi.count() - calls; n > 3 {
			t.Errorf("%d calls to a key service that does not answer", n)
		}
		if _, _, err := k.Sealer(ctx, "clinic", "phi"); crypto.KindOf(err) != crypto.KindUnavailable {
			t.Fatal(err)
		}
		wantKind(t, k.Ready(ctx, "clinic", named), crypto.KindUnavailable) // now something has
		phi.answer(nil)
		if err := k.Ready(ctx, "clinic", named); err != nil {
			t.Error(err)
		}
		if err := k.Ready(ctx, "billing", named); err != nil {
			t.Errorf("the key is not for this namespace: %v", err)
		}
	})
}

// TestATenantsKeyStopsNobodyElse: names with a wildcard belong to one tenant each.
func TestATenantsKeyStopsNobodyElse(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		byDefault, acme := newScripted("test:default"), newScripted("test:acme")
		k := newKeyring(t, Options{Open: store{byDefault.uri: byDefault, acme.uri: acme}.open, Keys: []KeyConfig{
			{Name: "tenant-*", Active: "test:{1}"}, {Name: "default", Active: byDefault.uri}}})
		k.Confirm("ns")
		acme.answer(timedOut)
		_, _, err := k.Sealer(t.Context(), "ns", "tenant-acme")
		wantKind(t, err, crypto.KindUnavailable)
		if err := k.Ready(t.Context(), "ns", []string{"tenant-acme"}); err != nil {
			t.Error(err)
		}
	})
}
