package keyring

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// Carriers of one message are read as each would be alone, whatever headers stand beside it.
func TestCarriersReadAsOneByOne(t *testing.T) {
	k, _ := ring(t)
	var all [][]byte
	for salt := range 7 { // more than are remembered
		s := sealer(t, k, "ns", "default")
		s.current.Store(nil)
		for _, text := range []string{"", "x", fmt.Sprint(salt), string(bytes.Repeat([]byte("long"), 100))} {
			c, err := s.AppendPayload(nil, []byte(payloadOf("json/plain", text)), salt%2 == 0)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range all[:] {
		for range 20 { // one byte is another, or some are missing
			broken := bytes.Clone(c)
			if i := random.IntN(len(broken)); random.IntN(4) == 0 {
				broken = broken[:i]
			} else {
				broken[i] ^= 1 << random.IntN(8)
			}
			all = append(all, broken)
		}
	}
	all = append(all, nil, []byte(payloadOf("json/plain", "clear")))
	var carriers Carriers
	for round := range 3 {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		read := make([]Sealed, len(all))
		for i, c := range all {
			var marked bool
			var err error
			read[i], marked, err = carriers.ParsePayload(c)
			want, wantMarked, wantErr := ParsePayload(c)
			if marked != wantMarked || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Fatalf("round %d: %x: marked %v, error %v; alone %v, %v", round, c, marked, err, wantMarked, wantErr)
			}
			if err == nil && !reflect.DeepEqual(read[i], want) {
				t.Fatalf("round %d: %x: read as\n%+v, alone as\n%+v", round, c, read[i], want)
			}
		}
		for i, c := range all { // in any order, after all were read: no header was overwritten
			alone, marked, err := ParsePayload(c)
			if err != nil || !marked {
				continue
			}
			want, _, wantErr := k.Open(context.Background(), nil, &alone, "ns")
			got, _, err := k.OpenNext(context.Background(), nil, &read[i], "ns", new(Run))
			if !bytes.Equal(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Fatalf("round %d: opened to %q, %v; alone to %q, %v", round, got, err, want, wantErr)
			}
		}
		carriers.Reset()
	}
}

// What one envelope needed must not open the next one after its key was withdrawn.
func TestNotedOpenerIsNotTrustedAfterReload(t *testing.T) {
	k, _ := ring(t)
	var carriers Carriers
	first, _, err := carriers.ParsePayload(seal(t, k, payloadOf("json/plain", "one")))
	if err != nil {
		t.Fatal(err)
	}
	var run Run
	if _, _, err := k.OpenNext(t.Context(), nil, &first, "ns", &run); err != nil || run.recent[0] == nil {
		t.Fatalf("opener %v, error %v", run.recent[0], err)
	}
	revoking := *k.set.Load()
	revoking.revoked = map[[IDSize]byte]bool{first.Header.DataKeyID: true}
	k.set.Store(&revoking)
	if _, _, err := k.OpenNext(t.Context(), nil, &first, "ns", &run); crypto.KindOf(err) != crypto.KindRevoked {
		t.Errorf("opened after its data key was revoked: %v", err)
	}
}
