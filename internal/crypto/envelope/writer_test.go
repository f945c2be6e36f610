package envelope

import (
	"strconv"
	"sync"
	"testing"
)

// TestOverhead: what sealing adds to a payload, beyond its wrapped key, its names and its padding.
func TestOverhead(t *testing.T) {
	p := newPair(t)
	fixed := len("ns") + len("default") + 60
	for n := range 70_000 {
		if over := p.size(n) - n - fixed - (bodySize(n) - n); over > 128 {
			t.Fatalf("%d bytes over for a payload of %d", over, n)
		}
		if pad := bodySize(n) - n; n < padUnder && (pad < 1 || pad > padBlock) || n >= padUnder && pad != 0 {
			t.Fatalf("%d bytes of padding for a payload of %d", pad, n)
		}
	}
	for _, n := range []int{0, 31, 32, 255, 256, 16_000, 70_000} {
		if carrier := p.AppendPayload(nil, make([]byte, n), false); len(carrier) != p.size(n) {
			t.Errorf("a payload of %d became %d bytes, PayloadSize says %d", n, len(carrier), p.size(n))
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
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2_000 {
				sealed, _, err := ParsePayload(p.AppendPayload(nil, []byte("x"), false))
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
