package keyring

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
)

// What a reload takes away must be gone at once, also from every cache and for every call that is under way.

func twoKeys(t *testing.T) (*Keyring, *scripted, *scripted, []byte) {
	t.Helper()
	old, fresh := newScripted("test:old"), newScripted("test:new")
	k := newKeyring(t, Options{Open: store{old.uri: old, fresh.uri: fresh}.open,
		Keys: []KeyConfig{{Name: "default", Active: "test:new", OpenOnly: []string{"test:old"}}}})
	k.Confirm("ns")
	writer := newKeyring(t, Options{Open: store{old.uri: old}.open, Keys: []KeyConfig{{Name: "default", Active: "test:old"}}})
	carrier := seal(t, writer, "payload")
	writer.Close()
	if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
		t.Fatal(got, err)
	}
	return k, old, fresh, carrier
}

func reload(t *testing.T, k *Keyring, keys ...KeyConfig) {
	t.Helper()
	if err := change(k, t.Context(), keys, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// TestPrepareChangesNothing: what is in force stays so until Commit, also where an alias has moved.
func TestPrepareChangesNothing(t *testing.T) {
	k, old, fresh, carrier := twoKeys(t)
	before, keks := k.Current(), maps.Clone(k.core.keys.byURI)
	fresh.ref = crypto.NewKEKRef("test", "what the alias means now")
	without, err := k.Prepare(t.Context(), []KeyConfig{{Name: "b", Active: "test:old"}, {Name: "a", Active: "test:none"}}, nil, nil)
	if err != nil || len(without.Unanswered()) != 1 || without.Unanswered()[0].Entry != 1 {
		t.Errorf("prepared %v with a key that does not exist, error %v", without, err)
	}
	if set, err := k.Prepare(t.Context(), []KeyConfig{{Name: "a"}}, nil, nil); err == nil || set != nil {
		t.Errorf("prepared %v with a key without a URI, error %v", set, err)
	}
	set, err := k.Prepare(t.Context(), []KeyConfig{{Name: "phi", Active: "test:new"}, {Name: "default", Active: "test:old"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if k.Current() != before || !maps.Equal(k.core.keys.byURI, keks) || len(k.core.keys.former) != 0 {
		t.Error("preparing changed what is in force")
	}
	if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
		t.Errorf("%q, %v", got, err)
	}
	if rank, ok := set.Rank("ns", "phi"); rank != 0 || !ok {
		t.Error("the prepared set does not answer for its keys")
	}
	if _, ok := k.Rank("ns", "phi"); ok {
		t.Error("the set in force has a key of the prepared one")
	}
	k.Commit(set)
	if s := sealer(t, k, "ns", "phi"); k.Current() != set || s.carrying.header.KEK != fresh.ref || old.ref == fresh.ref {
		t.Error("committing did not put the set in force")
	}
}

func TestReloadTakesAKeyOutOfTheCaches(t *testing.T) {
	t.Run("its URI is gone", func(t *testing.T) {
		k, _, _, carrier := twoKeys(t)
		reload(t, k, KeyConfig{Name: "default", Active: "test:new"})
		_, err := open(k, carrier, "ns")
		wantKind(t, err, crypto.KindNotConfigured)
	})
	t.Run("its entry serves other namespaces only", func(t *testing.T) {
		k, _, _, carrier := twoKeys(t)
		reload(t, k, KeyConfig{Name: "default", Namespaces: []string{"other"}, Active: "test:new", OpenOnly: []string{"test:old"}})
		_, err := open(k, carrier, "ns")
		wantKind(t, err, crypto.KindNotConfigured)
	})
	t.Run("another entry has it", func(t *testing.T) {
		k, _, _, carrier := twoKeys(t)
		reload(t, k, KeyConfig{Name: "default", Active: "test:new"}, KeyConfig{Name: "other", Active: "test:old"})
		_, err := open(k, carrier, "ns")
		wantKind(t, err, crypto.KindNotConfigured)
	})
	t.Run("nothing changed", func(t *testing.T) {
		k, old, _, carrier := twoKeys(t)
		before := old.count()
		reload(t, k, KeyConfig{Name: "default", Active: "test:new", OpenOnly: []string{"test:old"}})
		if got, err := open(k, carrier, "ns"); err != nil || got != "payload" || old.count() != before {
			t.Errorf("%q, %v, %d calls to the key service", got, err, old.count()-before)
		}
	})
}

// TestReloadWhileAKeyIsUnwrapped: the answer comes after the data key was revoked, or its KMS key taken away.
func TestReloadWhileAKeyIsUnwrapped(t *testing.T) {
	for name, c := range map[string]struct {
		keys    []KeyConfig
		revoked bool
		want    crypto.Kind
	}{
		"data key revoked": {[]KeyConfig{{Name: "default", Active: "test:new", OpenOnly: []string{"test:old"}}}, true, crypto.KindRevoked},
		"URI gone":         {[]KeyConfig{{Name: "default", Active: "test:new"}}, false, crypto.KindNotConfigured},
	} {
		bubble(t, name, func(t *testing.T) {
			k, old, _, carrier := twoKeys(t)
			forget(k)
			old.mu.Lock()
			old.block = make(chan struct{})
			old.mu.Unlock()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = open(k, carrier, "ns") // it began when it was allowed, so it may go either way
			}()
			synctest.Wait()
			var ids []crypto.KeyID
			if c.revoked {
				s, _, err := envelope.ParsePayload(carrier)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, s.Header.ID)
			}
			if err := change(k, t.Context(), c.keys, nil, ids); err != nil {
				t.Fatal(err)
			}
			old.mu.Lock()
			close(old.block)
			old.block = nil
			old.mu.Unlock()
			<-done
			_, err := open(k, carrier, "ns")
			wantKind(t, err, c.want)
		})
	}
}

// TestReloadWhileADataKeyIsMade: a slot is not left with a key of the configuration before.
func TestReloadWhileADataKeyIsMade(t *testing.T) {
	for name, keys := range map[string][]KeyConfig{
		"old one still opens": {{Name: "default", Active: "test:new", OpenOnly: []string{"test:old"}}},
		"old one gone":        {{Name: "default", Active: "test:new"}},
	} {
		bubble(t, name, func(t *testing.T) {
			old, fresh := newScripted("test:old"), newScripted("test:new")
			k := newKeyring(t, Options{Open: store{old.uri: old, fresh.uri: fresh}.open, Keys: []KeyConfig{{Name: "default", Active: "test:old"}}})
			k.Confirm("ns")
			old.block = make(chan struct{})
			done := make(chan error)
			go func() {
				_, _, err := k.Sealer(t.Context(), "ns", "default")
				done <- err
			}()
			synctest.Wait()
			reload(t, k, keys...)
			close(old.block)
			if err := <-done; err != nil {
				t.Error(err)
			}
			time.Sleep(waitForTick)
			if s := sealer(t, k, "ns", "default"); s.carrying.header.KEK != fresh.ref {
				t.Error("still sealed under the key of the configuration before")
			}
		})
	}
}

// TestUnlistedKeysAreLeftAlone: a key that was taken out of the configuration is about to be disabled, which is nobody's
// business here any more.
func TestUnlistedKeysAreLeftAlone(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, old, _, _ := twoKeys(t)
		reload(t, k, KeyConfig{Name: "default", Active: "test:new"})
		before := old.count()
		time.Sleep(3 * time.Hour)
		if n := old.count() - before; n != 0 {
			t.Errorf("%d calls for a key that is not in the configuration", n)
		}
	})
}

// TestReloadForgetsRefusals: whoever mended a key says so with a reload, and need not wait.
func TestReloadForgetsRefusals(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		carrier, k, p := coldPayload(t)
		p.answer(apiError(crypto.KindRejected, "IncorrectKeyException"))
		_, err := open(k, carrier, "ns")
		wantKind(t, err, crypto.KindRejected)
		_, _, err = k.Sealer(t.Context(), "ns", "default")
		wantKind(t, err, crypto.KindRejected)
		p.answer(nil)
		reload(t, k, defaultKeys()...)
		if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
			t.Errorf("%q, %v", got, err)
		}
		sealer(t, k, "ns", "default")
	})
}

func TestFormerKeysAreBounded(t *testing.T) {
	p := newScripted("test:default")
	alias := store{p.uri: p}
	k := newKeyring(t, Options{Keys: defaultKeys(), Open: alias.open})
	for i := range 3 * maxFormer {
		next := newScripted("test:default")
		next.ref = crypto.NewKEKRef("test", fmt.Sprint(i))
		alias["test:default"] = next
		reload(t, k, defaultKeys()...)
	}
	if n := len(k.core.keys.former); n > maxFormer {
		t.Errorf("%d former keys in memory", n)
	}
}

func TestUsesAreCounted(t *testing.T) {
	k, old, fresh, carrier := twoKeys(t)
	for range 4 {
		if _, err := open(k, carrier, "ns"); err != nil {
			t.Fatal(err)
		}
	}
	seal(t, k, "x")
	want := []KeyUse{{Entry: "default", KEK: fresh.ref, Role: RoleActive, Sealed: 1}, {Entry: "default", KEK: old.ref, Role: RoleOpenOnly, Opened: 5}}
	got := k.Uses()
	if len(got) != 2 || got[1].LastOpened.IsZero() {
		t.Fatalf("%+v", got)
	}
	got[1].LastOpened = time.Time{}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	w := k.WorkingKeys()
	if len(w) != 1 || w[0].ID != sealer(t, k, "ns", "default").dk.id || w[0].KEK != fresh.ref {
		t.Errorf("working keys %+v", w)
	}
	reload(t, k, KeyConfig{Name: "default", Active: "test:new"})
	if got := k.Uses(); len(got) != 2 || got[1].Role != RoleFormer || got[1].Opened != 5 {
		t.Errorf("after the old key was taken out: %+v", got)
	}
}

// TestUsesAreBounded: key names that callers choose make no end of series.
func TestUsesAreBounded(t *testing.T) {
	s := make(store)
	k := newKeyring(t, Options{Keys: []KeyConfig{{Name: "tenant/*", Active: "test:{1}"}}, Open: s.open})
	k.Confirm("ns")
	for i := range 3 * maxUses {
		p := newScripted(fmt.Sprint("test:t", i))
		s[p.uri] = p
		sealed, err := sealer(t, k, "ns", fmt.Sprint("tenant/t", i)).appendPayload(nil, []byte("x"), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(k, sealed, "ns"); err != nil {
			t.Fatal(err)
		}
	}
	uses := k.Uses()
	var all, other uint64
	for _, u := range uses {
		all += u.Sealed
		if u.Entry == OtherUses {
			other = u.Opened
		}
	}
	if len(uses) != maxUses+1 || all != 3*maxUses || other != 2*maxUses {
		t.Errorf("%d series, %d sealed, %d opened under other keys", len(uses), all, other)
	}
}

// TestCallersLearnNoPlaces: whoever calls learns the key's name and what to do, and not where keys are kept.
func TestCallersLearnNoPlaces(t *testing.T) {
	kc := crypto.KeyContext{Namespace: "ns", Key: "phi"}
	place := "awskms://alias/secret-place?endpoint=https://kms.internal"
	kk := keyhealth.New(newScripted(place), testHealth())
	fromProvider := &crypto.Error{Kind: crypto.KindDenied, Op: "kms.decrypt", Key: "phi", Namespace: "ns", Err: errors.New(place + ": AccessDeniedException: arn:aws:kms:x")}
	noURI := &crypto.Error{Kind: crypto.KindRejected, Op: "unwrap data key", Key: "phi", Err: errors.New("no key in local:/secret-place opens it")}
	for i, err := range []error{
		kk.Revoked(kc, fromProvider), crypto.Unavailable("kms.decrypt", kc, fromProvider), fromProvider, noURI,
		crypto.Errorf(crypto.KindRejected, "open", "refused: %w", fromProvider).In("phi", "ns"), fmt.Errorf("StartWorkflowExecution: input: %w", kk.Revoked(kc, fromProvider)),
		fmt.Errorf("%w, and more after it", fromProvider), errors.Join(fromProvider, noURI),
	} {
		told := crypto.ForCaller(err)
		if strings.Contains(told, "secret-place") || strings.Contains(told, "arn:") || !strings.Contains(told, `"phi"`) {
			t.Errorf("%d: %s", i, told)
		}
	}
	if told := crypto.ForCaller(fmt.Errorf("Poll: history: %w", kk.Revoked(kc, fromProvider))); !strings.HasPrefix(told, "Poll: history: use key") {
		t.Error(told)
	}
	whole := crypto.Errorf(crypto.KindForeign, "open", "sealed in another namespace than %q", "a").In("phi", "ns")
	if told := crypto.ForCaller(whole); told != whole.Error() {
		t.Errorf("%s, want all of %s", told, whole)
	}
	if told := crypto.ForCaller(errors.New("plain")); told != "plain" {
		t.Error(told)
	}
}
