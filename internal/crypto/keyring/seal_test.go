package keyring

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/json"
	"flag"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// fixedNonce is GCM as the FIPS module has it, except that the nonce is given: what it seals can be compared.
type fixedNonce struct {
	cipher.AEAD
	nonce []byte
}

func (f fixedNonce) Seal(dst, _, plaintext, aad []byte) []byte {
	// In place, like the real one: the plaintext may stand where the nonce goes.
	plaintext = bytes.Clone(plaintext)
	return f.AEAD.Seal(append(dst, f.nonce...), f.nonce, plaintext, aad)
}

// writerOf is a Sealer that has a vector's data key, salt and nonce.
func writerOf(t *testing.T, v vector) *Sealer {
	t.Helper()
	h, err := ParseHeader(v.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := ring(t)
	dk, err := newDataKey(newKEK(newScripted("test:vector"), time.Now()), crypto.KeyContext{Namespace: h.Namespace, Key: h.Key}, v.DK, h.Wrapped)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sealer{dk: dk, clock: &k.coarse, header: h}
	c := Cipher{gcm: fixedNonce{gcmOf(t, v.PayloadKey), v.Nonce}, ownNonce: true}
	s.current.Store(&payloadSalt{writer: NewWriter(c, &h), born: time.Unix(0, k.coarse.Load())})
	return s
}

// TestWriterReproducesVectors: given data key, salt and nonce, the bytes are those of the vectors.
func TestWriterReproducesVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			s := writerOf(t, v)
			w, err := s.writer()
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			switch flags := v.Header[2]; {
			case len(v.View) > 0:
				got, err = s.AppendView(nil, plaintextOf(t, v), fields("/user/jwt", "/patient"))
			case flags&flagPadded != 0:
				got, err = s.AppendPayload(nil, v.Plaintext, false)
			default: // shorter than what this writer leaves unpadded
				got = carrierOf(vector{Envelope: w.cipher.seal(bytes.Clone(v.Header), v.Plaintext, v.Header)})
			}
			if want := carrierOf(v); err != nil || !bytes.Equal(got, want) {
				t.Errorf("error %v, carrier\n%x, want\n%x", err, got, want)
			}
		})
	}
}

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
	g.DataKey = bytes.Repeat([]byte{byte(len(g.Name))}, DataKeySize)
	k := goldenRing(t, g)
	s := sealer(t, k, g.Namespace, g.Key)
	dk, err := newDataKey(s.dk.kek, s.dk.context, g.DataKey, []byte("wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	s = &Sealer{dk: dk, clock: &k.coarse, header: s.header}
	s.header.DataKeyID, s.header.Wrapped = dk.id, dk.wrapped
	switch g.Name {
	case "view":
		g.Carrier, err = s.AppendView(nil, g.Plain, fields("/jwt", "/list/*/ssn"))
	case "text":
		g.Carrier, err = s.AppendText(nil, g.Plain)
	default:
		g.Carrier, err = s.AppendPayload(nil, g.Plain, g.Name == "payload, compressed")
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
	p.blobs["wrapped"] = blob{plain: [DataKeySize]byte(g.DataKey), kc: kc}
	return newKeyring(t, KeyringOptions{Keys: []KeyConfig{{Name: g.Key, Active: p.uri}}, Open: store{p.uri: p}.open, Realm: g.Realm})
}

func TestSealAndOpenAnything(t *testing.T) {
	k, _ := ring(t)
	s := sealer(t, k, "ns", "default")
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "payload")
		compress := rapid.Bool().Draw(t, "compress")
		carrier, err := s.AppendPayload([]byte("dst"), payload, compress)
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
		sealed, err := s.AppendText(nil, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		parsed, marked, err := ParseText(sealed)
		if err != nil || !marked {
			t.Fatalf("marked %v, error %v", marked, err)
		}
		if got, _, err := k.Open(context.Background(), nil, &parsed, "ns"); err != nil || string(got) != text {
			t.Fatalf("%q, %v; want %q", got, err, text)
		}
	})
}

func TestTextHasToBeUTF8(t *testing.T) {
	k, _ := ring(t)
	_, err := sealer(t, k, "ns", "default").AppendText(nil, []byte("\xff"))
	wantKind(t, err, crypto.KindMalformed)
}

// TestOverhead: what sealing adds to a payload, beyond its wrapped key, its names and its padding.
func TestOverhead(t *testing.T) {
	k, _ := ring(t)
	s := sealer(t, k, "ns", "default")
	fixed := len("ns") + len("default") + len(s.header.Wrapped)
	for n := range 70_000 {
		if over := s.PayloadSize(n) - n - fixed - (bodySize(n) - n); over > 128 {
			t.Fatalf("%d bytes over for a payload of %d", over, n)
		}
		if pad := bodySize(n) - n; n < padUnder && (pad < 1 || pad > padBlock) || n >= padUnder && pad != 0 {
			t.Fatalf("%d bytes of padding for a payload of %d", pad, n)
		}
	}
	for _, n := range []int{0, 31, 32, 255, 256, 16_000, 70_000} {
		carrier, err := s.AppendPayload(nil, make([]byte, n), false)
		if err != nil || len(carrier) != s.PayloadSize(n) {
			t.Errorf("a payload of %d became %d bytes, PayloadSize says %d; error %v", n, len(carrier), s.PayloadSize(n), err)
		}
	}
}

func TestTrueAndFalseLookAlike(t *testing.T) {
	k, _ := ring(t)
	yes, no := seal(t, k, payloadOf("json/plain", "true")), seal(t, k, payloadOf("json/plain", "false"))
	if len(yes) != len(no) {
		t.Errorf("%d and %d bytes", len(yes), len(no))
	}
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
		check("AppendPayload", func() { s.AppendPayload(dst, payload, false) })
		check("Marked", func() { Marked(payload); Marked(carrier) })
		check("Confirm", func() { k.Confirm("ns") })
		var carriers Carriers
		check("Open", func() {
			carriers.Reset()
			sealed, _, _ := carriers.ParsePayload(carrier)
			if _, hit, err := k.Open(context.Background(), dst, &sealed, "ns"); err != nil || !hit {
				t.Errorf("hit %v, error %v", hit, err)
			}
		})
	}
}

func TestSaltIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := ring(t)
		s := sealer(t, k, "ns", "default")
		saltOf := func() [SaltSize]byte {
			sealed, _, err := ParsePayload(seal(t, k, "x"))
			if err != nil {
				t.Fatal(err)
			}
			return sealed.Header.Salt
		}
		first := saltOf()
		time.Sleep(9 * time.Minute)
		if saltOf() != first {
			t.Error("renewed too early")
		}
		time.Sleep(2 * time.Minute)
		second := saltOf()
		if second == first {
			t.Error("not renewed after ten minutes")
		}
		s.current.Load().used.Store(saltPayloads - 1)
		if saltOf() != second {
			t.Error("the last of 2^20 payloads has another salt")
		}
		if saltOf() == second {
			t.Error("not renewed after 2^20 payloads")
		}
	})
}

func TestNoncesDiffer(t *testing.T) {
	k, _ := ring(t)
	s := sealer(t, k, "ns", "default")
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2_000 {
				carrier, err := s.AppendPayload(nil, []byte("x"), false)
				if err != nil {
					t.Error(err)
					return
				}
				sealed, _, err := ParsePayload(carrier)
				if err != nil {
					t.Error(err)
					return
				}
				n := sealed.Header.Size()
				mu.Lock()
				seen[string(sealed.Envelope()[n:n+nonceSize])] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 16_000 {
		t.Errorf("%d nonces for 16,000 payloads", len(seen))
	}
}

func TestCompression(t *testing.T) {
	k, _ := ring(t)
	s := sealer(t, k, "ns", "default")
	flagsOf := func(payload []byte) byte {
		carrier, err := s.AppendPayload(nil, payload, true)
		if err != nil {
			t.Fatal(err)
		}
		sealed, _, err := ParsePayload(carrier)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := open(k, carrier, "ns"); err != nil || got != string(payload) {
			t.Fatalf("%d bytes, error %v", len(got), err)
		}
		return sealed.Header.Flags
	}
	var long []byte
	for i := 0; len(long) < 9<<20; i++ {
		long = strconv.AppendInt(append(long, ' '), int64(i*i), 10)
	}
	for name, c := range map[string]struct {
		payload []byte
		want    bool
	}{
		"text":                        {long[:5000], true},
		"larger than the window":      {long, true},
		"nothing":                     {nil, false},
		"what gets no shorter":        {[]byte("abc"), false},
		"more than openers will take": {make([]byte, 1<<20), false},
	} {
		if got := flagsOf(c.payload)&flagZstd != 0; got != c.want {
			t.Errorf("%s: compressed %v, want %v", name, got, c.want)
		}
	}
}
