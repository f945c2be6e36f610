package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

var addGolden = flag.Bool("add-golden", false, "seal the cases that testdata/envelope/golden.json lacks, and add them; those in it are never written again")

// golden is a value sealed by some release. Every later one has to open it.
type golden struct {
	Name, Namespace, Realm, Key string
	DataKey, Carrier, Plain     []byte
}

const goldenFile = "../../../testdata/envelope/golden.json"

func TestGoldenEnvelopes(t *testing.T) {
	var all []golden
	if b, err := os.ReadFile(goldenFile); err == nil {
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
	}
	have := map[string]bool{}
	for _, g := range all {
		have[g.Name] = true
	}
	for _, c := range goldenCases() {
		if have[c.Name] {
			continue
		}
		if !*addGolden {
			t.Errorf("%s is not in %s; run go test -run Golden -add-golden", c.Name, goldenFile)
			continue
		}
		all = append(all, sealGolden(t, c))
		b, err := json.MarshalIndent(all, "", "  ")
		if err == nil {
			err = os.WriteFile(goldenFile, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range all {
		t.Run(g.Name, func(t *testing.T) {
			k := goldenRing(t, g)
			got, ok, err := tryOpen(t, k, g.Carrier, g.Namespace)
			if !ok || err != nil || !bytes.Equal(got, g.Plain) {
				t.Errorf("opened %q, error %v; want %q", got, err, g.Plain)
			}
		})
	}
}

func goldenCases() []golden {
	long := payloadOf("json/plain", `{"note":"`+strings.Repeat("long ", 100)+`"}`)
	return []golden{
		{Name: "payload, padded", Namespace: "payments-prod", Key: "payments", Plain: []byte(payloadOf("json/plain", `{"patient":"42"}`))},
		{Name: "payload, empty", Namespace: "payments-prod", Key: "payments"},
		{Name: "payload, not padded", Namespace: "payments-prod", Key: "payments", Plain: []byte(long)},
		{Name: "payload, compressed", Namespace: "payments-prod", Key: "payments", Plain: []byte(long)},
		{Name: "payload, in a realm", Namespace: "default", Realm: "eu-1", Key: "tenant/acme", Plain: []byte(payloadOf("binary/null", ""))},
		{Name: "payload, names that are hashed in the context", Namespace: "Zahlung prüfen", Key: "schlüssel", Plain: []byte("no protobuf at all")},
		{Name: "view", Namespace: "clinic-prod", Key: "phi", Plain: []byte(payloadOf("json/plain", `{ "id": 7, "jwt" : "eyJ0", "list":[{"ssn":"1"},{"x":2}]}`))},
		{Name: "text", Namespace: "clinic-prod", Key: "phi", Plain: []byte("activity failed: patient 42 – not found")},
	}
}

// sealGolden seals a case with a data key that it notes.
func sealGolden(t *testing.T, g golden) golden {
	g.DataKey = bytes.Repeat([]byte{byte(len(g.Name))}, envelope.DataKeySize)
	k := goldenRing(t, g)
	s := sealer(t, k, g.Namespace, g.Key)
	dk, err := newDataKey(s.dk.kek, s.dk.context, g.DataKey, []byte("wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	s = newSealer(dk)
	switch g.Name {
	case "view":
		g.Carrier, err = s.appendView(g.Plain, fields("/jwt", "/list/*/ssn"))
	case "text":
		g.Carrier, err = s.appendText(g.Plain)
	default:
		g.Carrier, err = s.appendPayload(nil, g.Plain, g.Name == "payload, compressed")
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func goldenRing(t *testing.T, g golden) *Keyring {
	t.Helper()
	p := newScripted("test:golden")
	kc := crypto.KeyContext{Namespace: g.Namespace, Key: g.Key}
	if g.Realm != "" {
		kc.Namespace = g.Realm + "/" + g.Namespace
	}
	p.blobs["wrapped"] = blob{plain: [envelope.DataKeySize]byte(g.DataKey), kc: kc}
	return newKeyring(t, Options{Keys: []KeyConfig{{Name: g.Key, Active: p.uri}}, Open: store{p.uri: p}.open, Realm: g.Realm})
}

func TestSealAndOpenAnything(t *testing.T) {
	k, _ := ring(t)
	s := sealer(t, k, "ns", "default")
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "payload")
		compress := rapid.Bool().Draw(t, "compress")
		carrier, err := s.appendPayload([]byte("dst"), payload, compress)
		if err != nil || !bytes.HasPrefix(carrier, []byte("dst")) {
			t.Fatalf("error %v", err)
		}
		carrier = carrier[3:]
		if want := s.PayloadSize(len(payload)); !compress && len(carrier) != want {
			t.Fatalf("%d bytes, PayloadSize says %d", len(carrier), want)
		}
		if got, err := open(k, carrier, "ns"); err != nil || got != string(payload) {
			t.Fatalf("%q, %v; want %q", got, err, payload)
		}
		text := rapid.String().Draw(t, "text")
		sealed, err := s.appendText([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		parsed, marked, err := envelope.ParseText(sealed)
		if err != nil || !marked {
			t.Fatalf("marked %v, error %v", marked, err)
		}
		if got, _, err := k.Open(context.Background(), nil, &parsed, "ns", new(Run)); err != nil || string(got) != text {
			t.Fatalf("%q, %v; want %q", got, err, text)
		}
	})
}

func TestTextHasToBeUTF8(t *testing.T) {
	k, _ := ring(t)
	_, err := sealer(t, k, "ns", "default").appendText([]byte("\xff"))
	wantKind(t, err, crypto.KindMalformed)
}

func TestWarmPathsAllocateNothing(t *testing.T) {
	k, _ := ring(t)
	for _, n := range []int{0, 20, 1 << 10, 100 << 10} {
		payload := bytes.Repeat([]byte("x"), n)
		s := sealer(t, k, "ns", "default")
		carrier := seal(t, k, string(payload))
		dst := make([]byte, 0, max(s.PayloadSize(n), n+padBlock))
		check := func(what string, f func()) {
			t.Helper()
			if allocs := testing.AllocsPerRun(1000, f); allocs != 0 {
				t.Errorf("%s, %d bytes: %v allocations", what, n, allocs)
			}
		}
		check("Sealer", func() { k.Sealer(t.Context(), "ns", "default") })
		var nonces envelope.Nonces
		check("AppendPayload", func() {
			nonces.Expect(1)
			_, _ = s.AppendPayload(dst, payload, false, &nonces)
		})
		check("Marked", func() { envelope.Marked(payload); envelope.Marked(carrier) })
		check("Confirm", func() { k.Confirm("ns") })
		var reader envelope.Reader
		check("Open", func() {
			reader.Reset()
			var sealed envelope.Sealed
			_, _ = reader.ParsePayload(&sealed, carrier)
			if _, hit, err := k.Open(context.Background(), dst, &sealed, "ns", new(Run)); err != nil || !hit {
				t.Errorf("hit %v, error %v", hit, err)
			}
		})
	}
}

// TestSealsAreLimited: a data key is renewed long before it has sealed all that it may, and seals nothing beyond that.
func TestSealsAreLimited(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		s := sealer(t, k, "ns", "default")
		s.dk.seals.Store(renewSeals - 1)
		time.Sleep(waitForTick)
		if sealer(t, k, "ns", "default") != s {
			t.Error("renewed too early")
		}
		seal(t, k, "x")
		time.Sleep(waitForTick)
		next := sealer(t, k, "ns", "default")
		if next == s || next.dk.id == s.dk.id {
			t.Error("not renewed after half of what it may seal")
		}

		p.answer(errors.New("no answer"))
		next.dk.seals.Store(maxSeals - 1)
		if _, err := next.appendPayload(nil, []byte("x"), false); err != nil {
			t.Errorf("the last envelope: %v", err)
		}
		for range 3 {
			_, err := next.appendPayload(nil, []byte("x"), false)
			wantKind(t, err, crypto.KindUnavailable)
		}
		_, _, err := k.Sealer(t.Context(), "ns", "default")
		wantKind(t, err, crypto.KindUnavailable)
		p.answer(nil)
		time.Sleep(15 * time.Second)
		if last := sealer(t, k, "ns", "default"); last.dk.id == next.dk.id {
			t.Error("a data key that has sealed all that it may still serves")
		}
	})
}
