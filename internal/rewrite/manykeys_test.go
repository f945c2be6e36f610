package rewrite

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// stored is a key store that several keyrings use.
type stored struct{ crypto.KeyStore }

func (stored) Close() error { return nil }

// replicas are processes that seal by reference with one key file and one key store.
type replicas struct {
	testing.TB
	store crypto.KeyStore
	key   string
}

func newReplicas(t testing.TB) *replicas {
	dir := t.TempDir()
	r := &replicas{TB: t, key: filepath.Join(dir, "seal.key")}
	if err := localkey.Create(r.key, time.Now()); err != nil {
		t.Fatal(err)
	}
	uri := "sqlite:" + filepath.Join(dir, "keys.db")
	id, _, err := keystore.Init(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	store, err := keystore.New(uri, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	r.store = stored{store}
	return r
}

// start starts a process that holds no data key yet.
func (r *replicas) start() *keyring.Keyring {
	keys, err := keyring.New(context.Background(), keyring.Options{Open: localkey.Open, Log: slog.New(slog.DiscardHandler), Store: r.store,
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + r.key, Reference: true}}})
	if err != nil {
		r.Fatal(err)
	}
	keys.Confirm(testNamespace)
	return keys
}

// seal puts envelopes into the places of payloads: epochs processes seal them, three at a time side by side, each with a data key of its own
// that is past its first envelopes.
func (r *replicas) seal(payloads []*commonpb.Payload, epochs int) {
	const side = 3
	for from := range max(epochs/side, 1) {
		some := payloads[len(payloads)*from/max(epochs/side, 1) : len(payloads)*(from+1)/max(epochs/side, 1)]
		var beside []*keyring.Sealer
		for range min(epochs, side) {
			keys := r.start()
			sealer, _, err := keys.Sealer(context.Background(), testNamespace, "default")
			if err != nil {
				r.Fatal(err)
			}
			for range 4 {
				_ = sealer.Envelope()
			}
			beside = append(beside, sealer)
			defer keys.Close()
		}
		for i, p := range some {
			raw, err := proto.Marshal(p)
			if err == nil {
				raw, err = beside[i%len(beside)].AppendPayload(nil, raw, false, new(envelope.Nonces))
			}
			if err == nil {
				err = proto.Unmarshal(raw, p)
			}
			if err != nil {
				r.Fatal(err)
			}
		}
	}
}

// opener returns a function that opens an answer as a process does which holds no data key at the first call.
func (r *replicas) opener(answer []byte) func() {
	keys := r.start()
	r.Cleanup(keys.Close)
	engine, err := policy.NewEngine(context.Background(), policy.Options{Shipped: []byte(benchPolicy), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		r.Fatal(err)
	}
	rewriter, err := New(Options{Keys: keys, Policy: engine, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.Fatal(err)
	}
	m := *rewriter.Method(service + "GetWorkflowExecutionHistory")
	return func() {
		c := rewriter.call(&m)
		if _, err := c.Response(context.Background(), answer); err != nil {
			r.Fatal(err)
		}
		c.Done()
	}
}

// TestReferencesCost prints what a history of 1,000 payloads by reference costs to open that 300 processes have sealed, beside one that one process
// has sealed: with all data keys in memory, and by a process that starts. Run it by `make bench-rewrite`.
func TestReferencesCost(t *testing.T) {
	if os.Getenv("REWRITE_COSTS") == "" {
		t.Skip("make bench-rewrite runs it")
	}
	all := newReplicas(t)
	var opens [2]func()
	var cold [2]time.Duration
	for i, epochs := range []int{1, 300} {
		random := rand.New(rand.NewPCG(1, 2))
		h := historyOf(1000, 1)
		var payloads []*commonpb.Payload
		for _, e := range h.Events {
			of := e.GetActivityTaskCompletedEventAttributes().Result
			of.Payloads[0] = payloadOf(sizeOf(random))
			payloads = append(payloads, of.Payloads[0])
		}
		all.seal(payloads, epochs)
		answer, err := proto.Marshal(&workflowpb.GetWorkflowExecutionHistoryResponse{History: h})
		if err != nil {
			t.Fatal(err)
		}
		opens[i] = all.opener(answer)
		began := time.Now()
		opens[i]()
		cold[i] = time.Since(began)
	}
	var took [2][]float64
	for range 400 {
		for i, open := range opens {
			began := time.Now()
			open()
			took[i] = append(took[i], time.Since(began).Seconds()*1000)
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	one, many := took[0][len(took[0])/10], took[1][len(took[1])/10] // what another process does meanwhile makes the others slower
	fmt.Printf("references_300_keys_beside_1 x=%.2f warm %.2f ms beside %.2f ms, cold %.0f ms beside %.0f ms\n", many/one, many, one,
		cold[1].Seconds()*1000, cold[0].Seconds()*1000)
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
