package keyring

import (
	"bytes"
	"context"
	"fmt"
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
				sealed, _, err := reader.ParsePayload(c)
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

// BenchmarkReferences opens a message of 1,000 payloads by reference, which one process or 300 have sealed, with all data keys in memory. The
// two take turns, so that what else the machine does meets both, and the ratio of their medians is reported.
func BenchmarkReferences(b *testing.B) {
	k, p := ring(b)
	kc := crypto.KeyContext{Namespace: "ns", Key: "default"}
	kek := sealer(b, k, "ns", "default").dk.kek
	sealers := make([]*Sealer, 300)
	for i := range sealers {
		plain, wrapped, err := p.GenerateDataKey(b.Context(), kc)
		if err != nil {
			b.Fatal(err)
		}
		dk, err := newDataKey(kek, kc, plain, wrapped)
		if err != nil {
			b.Fatal(err)
		}
		dk.use = new(keyUse)
		k.opening.keys.add(dk)
		sealers[i] = newSealer(dk)
	}
	keys := [2]int{1, 300}
	var messages [2][][]byte
	var took [2][]float64
	for m := range messages {
		for i := range 1000 {
			messages[m] = append(messages[m], sealers[i%keys[m]].reference.writer.AppendPayload(nil, bytes.Repeat([]byte("x"), 200), false, new(envelope.Nonces)))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		for m := range messages {
			began := time.Now()
			if opened, errs := openResolved(context.Background(), k, messages[m]); opened != len(messages[m]) {
				b.Fatal(errs)
			}
			took[m] = append(took[m], float64(time.Since(began)))
		}
	}
	var median [2]float64
	for m := range took {
		slices.Sort(took[m])
		median[m] = took[m][len(took[m])/2]
		b.ReportMetric(median[m], fmt.Sprintf("ns/%d-keys", keys[m]))
	}
	b.ReportMetric(median[1]/median[0], "ratio")
}
