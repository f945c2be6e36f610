package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// kms is a key service that can be told to fail.
type kms struct {
	v     vector
	calls atomic.Int64
	mu    sync.Mutex
	err   error
}

func (k *kms) set(kind crypto.Kind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = nil
	if kind != crypto.KindUnknown {
		k.err = &crypto.Error{Kind: kind, Op: "kms.decrypt", Err: errors.New("told to fail")}
	}
}

func (k *kms) unwrap(ctx context.Context, wrapped []byte, bound map[string]string) ([]byte, error) {
	k.calls.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	return k.v.unwrap(ctx, wrapped, bound)
}

func wrappedVector(t *testing.T) (*kms, *Reader, *atomic.Int64) {
	for _, v := range vectors(t) {
		if v.Name == "temporal-proxy" {
			k := &kms{v: v}
			s := v.sources()[0]
			s.Unwrap = k.unwrap
			r := reader(t, s)
			var clock atomic.Int64
			r.keys.now = func() time.Time { return time.Unix(1_800_000_000+clock.Load(), 0) }
			return k, r, &clock
		}
	}
	t.Fatal("no such vector")
	return nil, nil, nil
}

// TestDataKeysAreKept walks through an outage and a withdrawal.
func TestDataKeysAreKept(t *testing.T) {
	k, r, clock := wrappedVector(t)
	step := func(name string, after time.Duration, answers crypto.Kind, want crypto.Kind, calls int64) {
		t.Helper()
		clock.Add(int64(after / time.Second))
		k.set(answers)
		before := k.calls.Load()
		got, err := open(r.For("ns"), k.v.Payload)
		if crypto.KindOf(err) != want || err == nil && !bytes.Equal(got, k.v.OpensTo) {
			t.Errorf("%s: %v", name, err)
		}
		if n := k.calls.Load() - before; n != calls {
			t.Errorf("%s: %d calls to the key service, want %d", name, n, calls)
		}
	}
	step("an outage from the start", 0, crypto.KindUnavailable, crypto.KindUnavailable, 1)
	step("it answers", 0, crypto.KindUnknown, crypto.KindUnknown, 1)
	step("at hand", time.Minute, crypto.KindUnavailable, crypto.KindUnknown, 0)
	step("an outage when it is asked again", dataKeyLife, crypto.KindUnavailable, crypto.KindUnknown, 1)
	step("not asked each time", time.Second, crypto.KindUnavailable, crypto.KindUnknown, 0)
	step("still out", 5*time.Hour, crypto.KindUnavailable, crypto.KindUnknown, 1)
	step("past the grace period", time.Hour, crypto.KindUnavailable, crypto.KindUnavailable, 1)
	step("back", time.Minute, crypto.KindUnknown, crypto.KindUnknown, 1)
	step("access withdrawn, not noticed yet", time.Minute, crypto.KindDenied, crypto.KindUnknown, 0)
	step("access withdrawn", dataKeyLife, crypto.KindDenied, crypto.KindRejected, 1)
	step("remembered for a while", time.Second, crypto.KindUnknown, crypto.KindRejected, 0)
	step("given back", refusalLife, crypto.KindUnknown, crypto.KindUnknown, 1)
	step("disabled", dataKeyLife, crypto.KindRevoked, crypto.KindRevoked, 1)
}

// TestOneCallForMany: callers that need the same data key at once make one call.
func TestOneCallForMany(t *testing.T) {
	k, r, _ := wrappedVector(t)
	k.mu.Lock() // the key service takes its time
	var opened sync.WaitGroup
	for range 200 {
		opened.Go(func() {
			if got, err := open(r.For("ns"), k.v.Payload); err != nil || !bytes.Equal(got, k.v.OpensTo) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	k.mu.Unlock()
	opened.Wait()
	if n := k.calls.Load(); n != 1 {
		t.Errorf("%d calls for one data key", n)
	}
}

// TestUnwrapsAreCapped: a message full of made-up wrapped keys does not become as many calls.
func TestUnwrapsAreCapped(t *testing.T) {
	k, r, _ := wrappedVector(t)
	n := r.For("ns")
	var run Run
	for i := range maxUnwraps + 10 {
		p := made(map[string]string{"encoding": "binary/encrypted", "encryption-key-id": "k", "encryption-dek": string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"[i%32]) + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"[i/32]) + "AA"}, make([]byte, 64))
		s, err := n.Parse(p, &run)
		if err != nil || s == nil {
			t.Fatal(s, err)
		}
		_, _, err = n.Open(context.Background(), nil, s, &run)
		want := crypto.KindRejected
		if i >= maxUnwraps {
			want = crypto.KindUnavailable
		}
		if crypto.KindOf(err) != want {
			t.Fatalf("payload %d: %v", i, err)
		}
	}
	if n := k.calls.Load(); n != maxUnwraps {
		t.Errorf("%d calls", n)
	}
}

// TestSilentServiceKeepsNobodyWaiting: calls to the key service of one source take no place of calls to that of another one.
func TestSilentServiceKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context, _ []byte, _ map[string]string) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		works := func(context.Context, []byte, map[string]string) ([]byte, error) { return make([]byte, 32), nil }
		r, err := New([]Source{{Name: "away", Format: TemporalProxy, Unwrap: silent}, {Name: "works", Format: TemporalProxy, Unwrap: works}})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				_, _, err := r.keys.get(t.Context(), &r.sources[0], fmt.Append(nil, i), nil, new(Run))
				if crypto.KindOf(err) != crypto.KindUnavailable {
					t.Errorf("the silent service: %v, want unavailable", err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		if _, _, err := r.keys.get(t.Context(), &r.sources[1], []byte("wrapped"), nil, new(Run)); err != nil || time.Since(start) > 0 {
			t.Errorf("another service: error %v after %v, want its answer at once", err, time.Since(start))
		}
		all.Wait()
		time.Sleep(time.Hour) // for the calls that nobody waits for any more
	})
}
