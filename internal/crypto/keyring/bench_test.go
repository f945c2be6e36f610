package keyring

import (
	"bytes"
	"context"
	"fmt"
	"testing"

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
			for b.Loop() {
				if _, err := s.AppendPayload(dst, payload, false); err != nil {
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

// BenchmarkColdSalts opens a history of 1,000 payloads that 333 processes sealed, so that each third needs a payload key
// of its own to be derived.
func BenchmarkColdSalts(b *testing.B) {
	k, _ := ring(b)
	s := sealer(b, k, "ns", "default")
	var carriers [][]byte
	for range 333 {
		s.current.Store(nil)
		for range 3 {
			carriers = append(carriers, seal(b, k, "payload"))
		}
	}
	dst := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		k.opening.openers.Purge()
		for _, c := range carriers {
			sealed, _, err := envelope.ParsePayload(c)
			if err == nil {
				_, _, err = k.Open(context.Background(), dst, &sealed, "ns", new(Run))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
