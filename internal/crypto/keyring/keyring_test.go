package keyring

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

func TestRankAndDefaultKey(t *testing.T) {
	uris := store{}
	for _, u := range []string{"test:phi", "test:tenant", "test:pay", "test:default"} {
		uris[u] = newScripted(u)
	}
	k := newKeyring(t, Options{Open: uris.open, Keys: []KeyConfig{
		{Name: "phi", Namespaces: []string{"clinic-*.a1b2c"}, Active: "test:phi"},
		{Name: "tenant/*", Namespaces: []string{"saas.a1b2c"}, Active: "test:tenant-{1}"},
		{Name: "pay", Namespaces: []string{"pay-*", "clinic-prod.a1b2c"}, Active: "test:pay"},
		{Name: "default", Namespaces: []string{"*.a1b2c"}, Active: "test:default"},
	}})
	for _, c := range []struct {
		namespace, key string
		rank           int
	}{
		{"clinic-prod.a1b2c", "phi", 0}, {"clinic-.a1b2c", "phi", 0}, {"clinic.a1b2c", "phi", -1}, {"xclinic-a.a1b2c", "phi", -1},
		{"clinic-prod.a1b2cx", "phi", -1}, {"saas.a1b2c", "tenant/acme", 1}, {"saas.a1b2c", "tenant/", -1}, {"saas.a1b2c", "tenant", -1},
		{"saas.a1b2c", "tenant/a?endpoint=http://x", -1}, {"saas.a1b2c", "tenant/../x", -1}, {"saas.a1b2c", "tenant/a/b", -1},
		{"saas.a1b2c", "tenant/" + strings.Repeat("a", 65), -1}, {"saas.a1b2c", "tenant/*", -1}, {"other", "tenant/acme", -1},
		{"pay-1", "pay", 2}, {"any.a1b2c", "default", 3}, {"any", "default", -1}, {"any.a1b2c", "", -1},
	} {
		rank, ok := k.Rank(c.namespace, c.key)
		if ok != (c.rank >= 0) || ok && rank != c.rank {
			t.Errorf("%s in %s: rank %d, %v; want %d", c.key, c.namespace, rank, ok, c.rank)
		}
	}
	for namespace, want := range map[string]string{"clinic-prod.a1b2c": "default", "pay-7": "pay", "saas.a1b2c": "default", "elsewhere": ""} {
		if got, ok := k.DefaultKey(namespace); got != want || ok != (want != "") {
			t.Errorf("default key of %s: %q, %v; want %q", namespace, got, ok, want)
		}
	}
	_, _, err := k.Sealer(t.Context(), "pay-1", "phi")
	wantKind(t, err, crypto.KindNotConfigured)
	wantKind(t, k.Ready(t.Context(), "elsewhere", nil), crypto.KindNotConfigured)
}

func TestWildcardKeysAreOpenedWhenNeeded(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		acme := newScripted("test:tenant-acme")
		var asked []string
		k := newKeyring(t, Options{
			Keys: []KeyConfig{{Name: "tenant/*", Active: "test:tenant-{1}"}},
			Open: func(ctx context.Context, uri string) (crypto.Provider, error) {
				asked = append(asked, uri)
				return store{acme.uri: acme}.open(ctx, uri)
			},
		})
		k.Confirm("saas")
		if len(asked) != 0 {
			t.Fatalf("opened %v at the start", asked)
		}
		for range 3 {
			sealer(t, k, "saas", "tenant/acme")
			_, _, err := k.Sealer(t.Context(), "saas", "tenant/none")
			wantKind(t, err, crypto.KindRevoked)
		}
		if got := strings.Join(asked, " "); got != "test:tenant-acme test:tenant-none" {
			t.Errorf("opened %s; want each once", got)
		}
	})
}

func TestStartReportsEveryKeyThatDoesNotAnswer(t *testing.T) {
	s, _ := defaultStore()
	k, err := New(t.Context(), Options{Open: s.open, Log: slog.New(slog.DiscardHandler), Keys: []KeyConfig{
		{Name: "a", Active: "test:none-1"}, {Name: "b", Active: "test:default", OpenOnly: []string{"test:retired"}}, {Name: "c", Active: "test:none-2"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if _, _, err := k.Sealer(t.Context(), "ns", "b"); err != nil {
		t.Errorf("a key that answers does not seal: %v", err)
	}
	err = k.Current().AllAnswer()
	if err == nil || !strings.Contains(err.Error(), `keys[0] "a"`) || !strings.Contains(err.Error(), `keys[2] "c"`) {
		t.Errorf("error %v, want both keys named", err)
	}
	if err != nil && strings.Contains(err.Error(), "retired") {
		t.Errorf("a retired key stops the start: %v", err)
	}
	for name, c := range map[string]struct {
		key  KeyConfig
		want string
	}{
		"no name":               {KeyConfig{Active: "test:default"}, "1 to 128 bytes"},
		"a long name":           {KeyConfig{Name: strings.Repeat("a", 129), Active: "test:default"}, "1 to 128 bytes"},
		"two stars":             {KeyConfig{Name: "a*b*", Active: "test:default"}, "at most one *"},
		"nothing active":        {KeyConfig{Name: "a"}, "active is missing"},
		"{1} without a star":    {KeyConfig{Name: "a", Active: "test:{1}"}, "has no *"},
		"{1} in an earlier URI": {KeyConfig{Name: "a", Active: "test:default", OpenOnly: []string{"test:{1}"}}, "has no *"},
	} {
		_, err := New(t.Context(), Options{Open: s.open, Keys: []KeyConfig{c.key}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// TestRealmWasChanged requires the remedy where the config's realm is not the one that an envelope of the same namespace has.
func TestRealmWasChanged(t *testing.T) {
	set := func(realm string) *Set {
		t.Helper()
		s, err := NewSet(&Options{Keys: defaultKeys(), Realm: realm})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, tc := range map[string]struct{ bound, realm, namespace, want string }{
		"another realm":  {"east/a", "west", "a", `sealed in the realm "east", and the config has the realm "west": set ` + "`realm: east`" + `, or grant {from: "east/a", to: "a"}`},
		"removed":        {"east/a", "", "a", `sealed in the realm "east", and the config has none: set `},
		"added":          {"a", "west", "a", `sealed without a realm, and the config has the realm "west": remove `},
		"by its name":    {"east/a", "west", "east/a", `the config has the realm "west"`},
		"its own":        {"west/a", "west", "a", ""},
		"another's name": {"west/a", "west", "b", `add {from: "a", to: "b"}`},
		"both others":    {"east/a", "west", "b", `add {from: "east/a", to: "b"}`},
	} {
		err := set(tc.realm).MayOpen(&envelope.Header{Namespace: tc.bound, Key: "default"}, tc.namespace)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, and not %q", name, err, tc.want)
		}
	}
}

func TestNamespacesGrantsAndRealms(t *testing.T) {
	p := newScripted("test:default")
	with := func(realm string, grants ...Grant) *Keyring {
		return newKeyring(t, Options{Keys: defaultKeys(), Open: store{p.uri: p}.open, Realm: realm, Grants: grants})
	}
	sealIn := func(k *Keyring, namespace string) []byte {
		t.Helper()
		carrier, err := sealer(t, k, namespace, "default").appendPayload(nil, []byte("payload"), false)
		if err != nil {
			t.Fatal(err)
		}
		return carrier
	}
	plain, eu, us := with(""), with("eu"), with("us")
	granted := with("", Grant{From: "a", To: "b"}, Grant{From: "eu/a", To: "b"})
	starred, euStarred := with("", Grant{From: "*", To: "b*"}), with("eu", Grant{From: "*", To: "b"}, Grant{From: "us/*", To: "c"})
	euGranted := with("eu", Grant{From: "a", To: "b"}, Grant{From: "us/a", To: "b"})
	for name, c := range map[string]struct {
		sealed    []byte
		by        *Keyring
		namespace string
		opens     bool
	}{
		"same namespace":                    {sealIn(plain, "a"), plain, "a", true},
		"another":                           {sealIn(plain, "a"), plain, "b", false},
		"another that starts alike":         {sealIn(plain, "a"), plain, "ab", false},
		"granted":                           {sealIn(plain, "a"), granted, "b", true},
		"granted, its own still":            {sealIn(plain, "b"), granted, "b", true},
		"grants have one direction":         {sealIn(plain, "b"), granted, "a", false},
		"same realm":                        {sealIn(eu, "a"), eu, "a", true},
		"another realm":                     {sealIn(eu, "a"), us, "a", false},
		"a realm, read without":             {sealIn(eu, "a"), plain, "a", false},
		"no realm, read with one":           {sealIn(plain, "a"), eu, "a", false},
		"granted within the realm":          {sealIn(eu, "a"), euGranted, "b", true},
		"granted across realms":             {sealIn(us, "a"), euGranted, "b", true},
		"a grant for this realm is no more": {sealIn(plain, "a"), euGranted, "b", false},
		"a realm granted to one without":    {sealIn(eu, "a"), granted, "b", true},
		"granted by a star":                 {sealIn(plain, "a"), starred, "bc", true},
		"not granted by the star":           {sealIn(plain, "a"), starred, "cb", false},
		"a star means no other realm":       {sealIn(eu, "a"), starred, "b", false},
		"a star within the realm":           {sealIn(eu, "a"), euStarred, "b", true},
		"a star, and no realm":              {sealIn(plain, "a"), euStarred, "b", false},
		"a star, and another realm":         {sealIn(us, "a"), euStarred, "b", false},
		"a star in another realm":           {sealIn(us, "a"), euStarred, "c", true},
		"this realm by another's star":      {sealIn(eu, "a"), euStarred, "c", false},
	} {
		got, err := open(c.by, c.sealed, c.namespace)
		if c.opens && (err != nil || got != "payload") {
			t.Errorf("%s: %q, %v; want it opened", name, got, err)
		}
		if !c.opens && crypto.KindOf(err) != crypto.KindForeign {
			t.Errorf("%s: %q, %v; want it called foreign", name, got, err)
		}
	}
}

// TestRenamedNamespaces: a namespace under a new name opens and goes on with what was sealed under the old one.
func TestRenamedNamespaces(t *testing.T) {
	s, p := defaultStore()
	before := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open, Realm: "eu"})
	seal := func(k *Keyring, namespace string) []byte {
		carrier, err := sealer(t, k, namespace, "default").appendPayload(nil, []byte("payload"), false)
		if err != nil {
			t.Fatal(err)
		}
		return carrier
	}
	opens := func(k *Keyring, carrier []byte, namespace string, want crypto.Kind) {
		t.Helper()
		for range 2 { // the second time from memory
			if got, err := open(k, carrier, namespace); err != nil && crypto.KindOf(err) != want || err == nil && (want != crypto.KindUnknown || got != "payload") {
				t.Errorf("opened in %s: %q, error %v; want kind %v", namespace, got, err, want)
			}
		}
	}
	old, other := seal(before, "old"), seal(before, "other")
	after := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: p.uri, Namespaces: []string{"new", "reader", "other"}}},
		Open: s.open, Realm: "eu", SealedAs: map[string]string{"new": "old"}, Grants: []Grant{{From: "new", To: "reader"}}})
	opens(after, old, "new", crypto.KindUnknown)
	opens(after, old, "reader", crypto.KindUnknown)
	opens(after, old, "other", crypto.KindForeign)
	opens(after, other, "new", crypto.KindForeign)
	opens(after, other, "other", crypto.KindUnknown)
	fresh := seal(after, "new")
	opens(after, fresh, "new", crypto.KindUnknown)
	opens(before, fresh, "old", crypto.KindUnknown)
	opens(before, fresh, "new", crypto.KindForeign)
	for bound, want := range map[string]string{"eu/old": "new", "eu/other": "other", "us/old": "us/old"} {
		if got := after.Current().SealedIn(bound, "new"); got != want {
			t.Errorf("%s is called %s in the namespace new, want %s", bound, got, want)
		}
	}
	if got := after.Current().SealedIn("eu/old", "reader"); got != "old" {
		t.Errorf("eu/old is called %s in the namespace reader", got)
	}
}

func TestOpenOnlyKeysAndUnknownOnes(t *testing.T) {
	old, fresh := newScripted("test:old"), newScripted("test:new")
	both := store{old.uri: old, fresh.uri: fresh}
	before := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: "test:old"}}, Open: both.open})
	carrier := seal(t, before, "payload")
	after := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: "test:new", OpenOnly: []string{"test:old"}}}, Open: both.open})
	if got, err := open(after, carrier, "ns"); err != nil || got != "payload" {
		t.Errorf("%q, %v", got, err)
	}
	if got := sealer(t, after, "ns", "default").carrying.header.KEK; got != fresh.ref {
		t.Error("sealed with a key that is for opening only")
	}
	without := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: "test:new"}}, Open: both.open})
	_, err := open(without, carrier, "ns")
	if wantKind(t, err, crypto.KindNotConfigured); err != nil && !strings.Contains(err.Error(), old.ref.String()) {
		t.Errorf("the error does not name the key that is missing: %v", err)
	}
	other := newKeyring(t, Options{Keys: []KeyConfig{{Name: "other", Active: "test:old"}}, Open: both.open})
	_, err = open(other, carrier, "ns")
	wantKind(t, err, crypto.KindNotConfigured)
}

// TestReplicasOfOneKey: two regions hold the same multi-Region key; one of them does not answer.
func TestReplicasOfOneKey(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		east, west := newScripted("test:east"), newScripted("test:west")
		west.ref, west.blobs = east.ref, east.blobs
		uris := store{east.uri: east, west.uri: west}
		writer := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: "test:east"}}, Open: uris.open})
		carrier := seal(t, writer, "payload")
		reader := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: "test:east", OpenOnly: []string{"test:west"}}}, Open: uris.open})
		east.answer(errors.New("the region is down"))
		if got, err := open(reader, carrier, "ns"); err != nil || got != "payload" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestReload(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		old, fresh := newScripted("test:old"), newScripted("test:new")
		k := newKeyring(t, Options{Keys: []KeyConfig{{Name: "default", Active: "test:old"}}, Open: store{old.uri: old, fresh.uri: fresh}.open})
		k.Confirm("ns")
		carrier := seal(t, k, "payload")
		if err := change(k, t.Context(), []KeyConfig{{Name: "default", Active: "test:none"}}, nil, nil); err == nil {
			t.Error("a key that does not answer was taken over")
		}
		fresh.answer(errors.New("not yet"))
		rotated := []KeyConfig{{Name: "default", Active: "test:new", OpenOnly: []string{"test:old"}}}
		if err := change(k, t.Context(), rotated, nil, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if s, hit, err := k.Sealer(t.Context(), "ns", "default"); err != nil || !hit || s.carrying.header.KEK != old.ref {
			t.Errorf("hit %v, error %v; want the working key until its successor is there", hit, err)
		}
		fresh.answer(nil)
		time.Sleep(15 * time.Second)
		s, hit, err := k.Sealer(t.Context(), "ns", "default")
		if err != nil || !hit || s.carrying.header.KEK != fresh.ref {
			t.Errorf("hit %v, error %v; want the successor, made in the background", hit, err)
		}
		if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
			t.Errorf("what the earlier key sealed: %q, %v", got, err)
		}
		// A leaked data key: nothing is opened with it any more, and a working one is replaced.
		if err := change(k, t.Context(), rotated, []Grant{{From: "x", To: "y"}}, []crypto.KeyID{s.carrying.header.ID}); err != nil {
			t.Fatal(err)
		}
		leaked, err := s.appendPayload(nil, []byte("forged"), false)
		wantKind(t, err, crypto.KindRevoked)
		if len(leaked) != 0 {
			t.Error("sealed with a revoked data key")
		}
		if next := sealer(t, k, "ns", "default"); next.carrying.header.ID == s.carrying.header.ID {
			t.Error("the leaked data key is still in use")
		}
		if err := change(k, t.Context(), []KeyConfig{{Name: "other", Active: "test:new"}}, nil, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err = k.Sealer(t.Context(), "ns", "default")
		wantKind(t, err, crypto.KindNotConfigured)
	})
}

// TestAliasThatMoved: the same URI means another key after a reload.
func TestAliasThatMoved(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		old, fresh := newScripted("test:default"), newScripted("test:default")
		fresh.ref = crypto.NewKEKRef("test", "fresh")
		alias := store{"test:default": old, "test:old": old}
		k := newKeyring(t, Options{Keys: defaultKeys(), Open: alias.open})
		k.Confirm("ns")
		carrier := seal(t, k, "payload")
		alias["test:default"] = fresh
		keys := []KeyConfig{{Name: "default", Active: "test:default", OpenOnly: []string{"test:old"}}}
		if err := change(k, t.Context(), keys, nil, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(waitForTick)
		if s, hit, err := k.Sealer(t.Context(), "ns", "default"); err != nil || !hit || s.carrying.header.KEK != fresh.ref {
			t.Errorf("hit %v, error %v; want it sealed under the key that the alias names now", hit, err)
		}
		if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
			t.Errorf("%q, %v", got, err)
		}
		forget(k)
		if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
			t.Errorf("cold: %q, %v", got, err)
		}
		old.answer(apiError(crypto.KindRevoked, "DisabledException"))
		fresh.answer(errors.New("no answer"))
		time.Sleep(70 * time.Second)
		if _, err := open(k, carrier, "ns"); err == nil {
			t.Error("the former key was disabled, which nobody noticed")
		}
		if err := change(k, t.Context(), keys, []Grant{{From: "a", To: "b"}}, nil); err != nil {
			t.Errorf("a reload while the key service does not answer: %v", err)
		}
	})
}

func TestRevokedDataKeys(t *testing.T) {
	p := newScripted("test:default")
	open1 := store{p.uri: p}.open
	writer := newKeyring(t, Options{Keys: defaultKeys(), Open: open1})
	carrier := seal(t, writer, "payload")
	id := sealer(t, writer, "ns", "default").carrying.header.ID
	reader := newKeyring(t, Options{Keys: defaultKeys(), Open: open1, RevokedDataKeys: []crypto.KeyID{id}})
	_, err := open(reader, carrier, "ns")
	wantKind(t, err, crypto.KindRevoked)
	// A wrong id in front of the same wrapped key gets the data key into memory, but not into use.
	sealed, _, err := envelope.ParsePayload(carrier)
	if err != nil {
		t.Fatal(err)
	}
	env := bytes.Clone(sealed.Envelope())
	env[idOffset] ^= 1
	_, err = open(reader, []byte(payloadOf(envelope.EncodingWhole, string(env))), "ns")
	wantKind(t, err, crypto.KindTampered)
	_, err = open(reader, carrier, "ns")
	wantKind(t, err, crypto.KindRevoked)
}

func TestBrokenKeyServiceSealsNothing(t *testing.T) {
	for name, wreck := range map[string]func(p *scripted){
		"unwraps to another key": func(p *scripted) {
			p.unwrap = func(w []byte, kc crypto.KeyContext) error {
				p.blobs[string(w)] = blob{kc: kc}
				return nil
			}
		},
		"refuses to unwrap": func(p *scripted) {
			p.unwrap = func([]byte, crypto.KeyContext) error { return apiError(crypto.KindDenied, "AccessDeniedException") }
		},
	} {
		k, p := ring(t)
		wreck(p)
		if _, _, err := k.Sealer(t.Context(), "ns", "default"); err == nil {
			t.Errorf("%s: a data key that can't be unwrapped again was put to use", name)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		carrier := seal(t, k, "payload")
		p.block = make(chan struct{})
		done := make(chan error)
		go func() {
			_, _, err := k.Sealer(context.Background(), "other", "default")
			done <- err
		}()
		synctest.Wait()
		k.Close()
		wantKind(t, <-done, crypto.KindUnavailable)
		if _, err := open(k, carrier, "ns"); err == nil {
			t.Error("a closed Keyring still opens")
		}
	})
}

func TestErrorsTellNoSecret(t *testing.T) {
	k, p := ring(t)
	carrier := seal(t, k, "CANARY payload")
	h, dataKey := headerOf(t, k, p)
	p.answer(apiError(crypto.KindDenied, "AccessDeniedException"))
	sealed, _, err := envelope.ParsePayload(carrier)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed.Envelope() {
		changed := append([]byte(nil), sealed.Envelope()...)
		changed[i] ^= 0x55
		_, err := open(k, []byte(payloadOf(envelope.EncodingWhole, string(changed))), "ns")
		if err == nil {
			t.Fatalf("byte %d changed and it opens", i)
		}
		for name, secret := range map[string]string{"payload": "CANARY", "data key": string(dataKey[:8]), "wrapped key": string(h.Wrapped[:8])} {
			if strings.Contains(err.Error(), secret) {
				t.Fatalf("the error holds bytes of the %s: %v", name, err)
			}
		}
	}
}
