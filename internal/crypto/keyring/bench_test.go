package keyring

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

var sizes = []int{64, 200, 1 << 10, 16 << 10, 100 << 10}

// BenchmarkSeal seals payloads, and beside that runs AES-GCM alone over the same bytes.
func BenchmarkSeal(b *testing.B) {
	for _, n := range sizes {
		payload := bytes.Repeat([]byte("x"), n)
		b.Run(fmt.Sprintf("%d/envelope", n), func(b *testing.B) {
			k, _ := ring(b)
			s := sealer(b, k, "ns", "default")
			dst := make([]byte, 0, s.PayloadSize(n))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			var nonces envelope.Nonces
			for b.Loop() {
				nonces.Expect(1)
				if _, err := s.AppendPayload(dst, payload, false, &nonces); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/raw", n), func(b *testing.B) {
			gcm := gcmOf(b, make([]byte, 32))
			dst := make([]byte, 0, n+16)
			b.SetBytes(int64(n))
			for b.Loop() {
				gcm.Seal(dst, make([]byte, 12), payload, nil)
			}
		})
	}
}

// BenchmarkOpen opens carriers whose keys are known.
func BenchmarkOpen(b *testing.B) {
	for _, n := range sizes {
		payload := bytes.Repeat([]byte("x"), n)
		b.Run(fmt.Sprintf("%d/envelope", n), func(b *testing.B) {
			k, _ := ring(b)
			carrier := seal(b, k, string(payload))
			dst := make([]byte, 0, n+64)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				s, _, err := envelope.ParsePayload(carrier)
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := k.Open(context.Background(), dst, &s, "ns", new(Run)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/raw", n), func(b *testing.B) {
			gcm := gcmOf(b, make([]byte, 32))
			nonce := make([]byte, 12)
			sealed := gcm.Seal(nil, nonce, payload, nil)
			dst := make([]byte, 0, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := gcm.Open(dst, nonce, sealed, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSealer takes the working sealer from many goroutines at once, as every call does.
func BenchmarkSealer(b *testing.B) {
	k, _ := ring(b)
	sealer(b, k, "ns", "default")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, hit, err := k.Sealer(b.Context(), "ns", "default"); err != nil || !hit {
				b.Fatal(hit, err)
			}
		}
	})
}

// BenchmarkManyKeys opens a message of 1,000 payloads that 333 processes sealed, with all data keys in memory.
func BenchmarkManyKeys(b *testing.B) {
	k, p := ring(b)
	kc := crypto.KeyContext{Namespace: "ns", Key: "default"}
	kek := sealer(b, k, "ns", "default").dk.kek
	sealers := make([]*Sealer, 333)
	for i := range sealers {
		plain, wrapped, err := p.GenerateDataKey(b.Context(), kc)
		if err != nil {
			b.Fatal(err)
		}
		dk, err := newDataKey(kek, kc, plain, wrapped)
		if err != nil {
			b.Fatal(err)
		}
		k.opening.keys.add(dk)
		dk.use = new(keyUse)
		sealers[i] = newSealer(dk)
	}
	for keys := range map[int]bool{1: true, 333: true} {
		var carriers [][]byte
		for i := range 1000 {
			carrier, err := sealers[i%keys].appendPayload(nil, bytes.Repeat([]byte("x"), 200), false)
			if err != nil {
				b.Fatal(err)
			}
			carriers = append(carriers, carrier)
		}
		message := func(reader *envelope.Reader, dst []byte) {
			var run Run
			reader.Reset()
			for _, c := range carriers {
				var sealed envelope.Sealed
				_, err := reader.ParsePayload(&sealed, c)
				if err == nil {
					_, _, err = k.Open(context.Background(), dst, &sealed, "ns", &run)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(fmt.Sprintf("%d", keys), func(b *testing.B) {
			var reader envelope.Reader
			dst := make([]byte, 0, 512)
			b.ReportAllocs()
			for b.Loop() {
				message(&reader, dst)
			}
		})
		b.Run(fmt.Sprintf("%d/parallel", keys), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				var reader envelope.Reader
				dst := make([]byte, 0, 512)
				for pb.Next() {
					message(&reader, dst)
				}
			})
		})
	}
}

// BenchmarkReferences opens a history of 1,000 payloads by reference, which one process or 300 have sealed, with all data keys in memory: a
// hundred times three processes side by side seal ten payloads, or the 300 take turns. The cases take turns as well, so that what else the
// machine does meets all of them, and ratios of their medians are reported.
func BenchmarkReferences(b *testing.B) {
	k, p := ring(b)
	kc := crypto.KeyContext{Namespace: "ns", Key: "default"}
	of := sealer(b, k, "ns", "default").dk
	sealers := make([]*Sealer, 300)
	for i := range sealers {
		plain, wrapped, err := p.GenerateDataKey(b.Context(), kc)
		if err != nil {
			b.Fatal(err)
		}
		dk, err := newDataKey(of.kek, kc, plain, wrapped)
		if err != nil {
			b.Fatal(err)
		}
		dk.use = of.use // that of their key encryption key
		k.opening.keys.add(dk)
		sealers[i] = newSealer(dk)
	}
	cases := []struct {
		name string
		key  func(i int) int
		size func(*rand.Rand) int
	}{
		{"one", func(int) int { return 0 }, sizeOf},
		{"300", func(i int) int { return i/10*3 + i%3 }, sizeOf},
		{"300-in-turn", func(i int) int { return i % 300 }, sizeOf},
		{"one-200-bytes", func(int) int { return 0 }, func(*rand.Rand) int { return 200 }},
		{"300-200-bytes", func(i int) int { return i/10*3 + i%3 }, func(*rand.Rand) int { return 200 }},
	}
	messages := make([][][]byte, len(cases))
	took := make([][]float64, len(cases))
	for m, c := range cases {
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 1000 {
			payload := bytes.Repeat([]byte("x"), c.size(random))
			messages[m] = append(messages[m], sealers[c.key(i)].reference.writer.AppendPayload(nil, payload, false, new(envelope.Nonces)))
		}
	}
	var reader envelope.Reader
	var sealed [1000]envelope.Sealed
	dst := make([]byte, 0, 128<<10)
	all := func(yield func(*envelope.Sealed) bool) {
		for i := range sealed {
			if !yield(&sealed[i]) {
				return
			}
		}
	}
	open := func(message [][]byte) {
		var run Run
		reader.Reset()
		for i, carrier := range message {
			sealed[i] = envelope.Sealed{}
			_, _ = reader.ParsePayload(&sealed[i], carrier)
		}
		k.Resolve(b.Context(), all, &run)
		for i := range sealed {
			if _, _, err := k.Open(b.Context(), dst, &sealed[i], "ns", &run); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		for m := range messages {
			began := time.Now()
			open(messages[m])
			took[m] = append(took[m], float64(time.Since(began)))
		}
	}
	median := map[string]float64{}
	for m, c := range cases {
		slices.Sort(took[m])
		median[c.name] = took[m][len(took[m])/2]
		b.ReportMetric(median[c.name], "ns/"+c.name)
	}
	b.ReportMetric(median["300"]/median["one"], "ratio")
	b.ReportMetric(median["300-in-turn"]/median["one"], "ratio-in-turn")
	b.ReportMetric(median["300-200-bytes"]/median["one-200-bytes"], "ratio-200-bytes")
}

// sizeOf draws the length of a payload: 70 % have 20 to 300 bytes, 22 % up to 2 KB, 7 % up to 10 KB, and 1 % up to 100 KB.
func sizeOf(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 70:
		return 20 + r.IntN(280)
	case n < 92:
		return 300 + r.IntN(1_700)
	case n < 99:
		return 2_000 + r.IntN(8_000)
	default:
		return 10_000 + r.IntN(90_000)
	}
}
