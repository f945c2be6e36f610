package envelope

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// The payloads of one message are read as each would be alone, whatever headers stand beside it.
func TestReaderReadsAsOneByOne(t *testing.T) {
	var all [][]byte
	var pairs []pair
	for i := range 7 { // more than are remembered
		p := pairOf(t, i%3 == 0)
		pairs = append(pairs, p)
		for _, text := range []string{"", "x", fmt.Sprint(i), string(bytes.Repeat([]byte("long"), 100))} {
			all = append(all, p.AppendPayload(nil, []byte(payloadOf("json/plain", text)), i%2 == 0))
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
	var reader Reader
	for round := range 3 {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		read := make([]Sealed, len(all))
		for i, c := range all {
			var marked bool
			var err error
			marked, err = reader.ParsePayload(&read[i], c)
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
			for _, p := range pairs {
				want, wantErr := p.Open(nil, &alone)
				got, err := p.Open(nil, &read[i])
				if !bytes.Equal(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) {
					t.Fatalf("round %d: opened to %q, %v; alone to %q, %v", round, got, err, want, wantErr)
				}
			}
		}
		reader.Reset()
	}
}

// TestReaderIsAsStrict: whatever version, flags and length a header by reference has, a Reader says what ParsePayload says.
func TestReaderIsAsStrict(t *testing.T) {
	accepted := 0
	for _, version := range []byte{0, version1, 2, 255} {
		for flags := range 256 {
			for _, size := range []int{referenceSize + nonceSize + tagSize - 1, referenceSize + nonceSize + tagSize, 200} {
				env := bytes.Repeat([]byte{7}, size)
				env[0], env[flagsOffset] = version, byte(flags)
				payload := protowire.AppendBytes([]byte(wholePrefix), env)
				var reader Reader
				var got Sealed
				gotMarked, gotErr := reader.ParsePayload(&got, payload)
				want, wantMarked, wantErr := ParsePayload(payload)
				if gotMarked != wantMarked || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || wantErr == nil && !reflect.DeepEqual(got, want) {
					t.Errorf("version %d, flags %#02x, %d bytes: %v %v, want %v %v", version, flags, size, got.Header, gotErr, want.Header, wantErr)
				}
				if wantErr == nil {
					accepted++
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("no header is valid")
	}
}
