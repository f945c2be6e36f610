package envelope

import (
	"bytes"
	"crypto/fips140"
	"strconv"
	"sync"
	"testing"
)

// TestOverhead: what an envelope adds to a payload, beyond its padding and the payload around it.
func TestOverhead(t *testing.T) {
	p, reference := newPair(t), pairOf(t, true)
	for n := range 70_000 {
		if over := envelopeSize(p.header.Size(), bodySize(n)) - bodySize(n); over != 59+len("ns")+len("default")+60 {
			t.Fatalf("self-contained: %d bytes over for a payload of %d", over, n)
		}
		if over := envelopeSize(reference.header.Size(), bodySize(n)) - bodySize(n); over != 46 {
			t.Fatalf("by reference: %d bytes over for a payload of %d", over, n)
		}
		if pad := bodySize(n) - n; n < padUnder && (pad < 1 || pad > padBlock) || n >= padUnder && pad != 0 {
			t.Fatalf("%d bytes of padding for a payload of %d", pad, n)
		}
	}
	for _, n := range []int{0, 31, 32, 255, 256, 16_000, 70_000} {
		for _, p := range []pair{p, reference} {
			if carrier := p.AppendPayload(nil, make([]byte, n), false); len(carrier) != p.size(n) {
				t.Errorf("a payload of %d became %d bytes, PayloadSize says %d", n, len(carrier), p.size(n))
			}
		}
	}
}

func TestTrueAndFalseLookAlike(t *testing.T) {
	p := newPair(t)
	yes := p.AppendPayload(nil, []byte(payloadOf("json/plain", "true")), false)
	no := p.AppendPayload(nil, []byte(payloadOf("json/plain", "false")), false)
	if len(yes) != len(no) {
		t.Errorf("%d and %d bytes", len(yes), len(no))
	}
}

func TestNoncesDiffer(t *testing.T) {
	p := newPair(t)
	nonceOf := func(nonces *Nonces) string {
		sealed, _, err := ParsePayload(p.writer.AppendPayload(nil, []byte("x"), false, nonces))
		if err != nil {
			t.Error(err)
		}
		n := sealed.Header.Size()
		return string(sealed.Envelope()[n : n+nonceSize])
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var nonces Nonces
			for call := range 100 {
				nonces.Expect(call % 30) // more and fewer than come
				for range 20 {
					nonce := nonceOf(&nonces)
					mu.Lock()
					seen[nonce] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != 16_000 {
		t.Errorf("%d nonces for 16,000 payloads", len(seen))
	}
}

func TestCompression(t *testing.T) {
	p := newPair(t)
	flagsOf := func(payload []byte) byte {
		carrier := p.AppendPayload(nil, payload, true)
		sealed, _, err := ParsePayload(carrier)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.open(carrier); err != nil || got != string(payload) {
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

// TestNoncesAreNotKept: what a call leaves is cleared, and the next one reads its own.
func TestNoncesAreNotKept(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("in FIPS mode the module draws each nonce")
	}
	p := newPair(t)
	var nonces Nonces
	nonces.Expect(50)
	p.writer.AppendPayload(nil, nil, false, &nonces)
	left := nonces.left
	if len(left) != 49*nonceSize || bytes.Equal(left[:nonceSize], make([]byte, nonceSize)) {
		t.Fatalf("%d bytes of nonces are left for 49 payloads: %x...", len(left), left[:nonceSize])
	}
	nonces.Reset()
	if nonces.left != nil || !bytes.Equal(left, make([]byte, len(left))) {
		t.Error("nonces of a call that has ended are still there")
	}
}
