package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

func TestCallsAreLimited(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		fakeTime(t, func(t *testing.T) {
			k, p := ring(t)
			p.block = make(chan struct{})
			start := time.Now()
			_, _, err := k.Sealer(t.Context(), "ns", "default")
			wantKind(t, err, crypto.KindUnavailable)
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("it took %v, want MaxWait", took)
			}
			if n := p.count(); n < 4 || n > 5 {
				t.Errorf("%d calls of at most 2 s each, want 4 or 5 in 10 s", n)
			}
		})
	})
	t.Run("in number", func(t *testing.T) {
		fakeTime(t, func(t *testing.T) {
			k, p := ring(t)
			p.block = make(chan struct{})
			var wg sync.WaitGroup
			for i := range 100 {
				ns := fmt.Sprint("ns", i)
				k.Confirm(ns)
				wg.Go(func() {
					if _, _, err := k.Sealer(t.Context(), ns, "default"); err != nil {
						t.Error(err)
					}
				})
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if p.busiest != maxCalls {
				t.Errorf("%d calls at once, want %d", p.busiest, maxCalls)
			}
			close(p.block)
			wg.Wait()
		})
	})
	t.Run("within the caller's deadline", func(t *testing.T) {
		fakeTime(t, func(t *testing.T) {
			carrier, k, p := coldPayload(t)
			p.answer(errors.New("no answer"))
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			time.AfterFunc(25*time.Second, func() { p.answer(nil) })
			if got, err := openIn(ctx, k, carrier, "ns"); err != nil || got != "payload" {
				t.Errorf("%q, %v; want it opened once the service is back", got, err)
			}
		})
	})
}

// TestSilentServiceKeepsNobodyWaiting: calls to a service that does not answer take no place of calls to another one, however many keys
// of it are in use.
func TestSilentServiceKeepsNobodyWaiting(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		away, works := newScripted("test://away/keys/a"), newScripted("test://works/keys/a")
		away.block = make(chan struct{})
		opens := make(chan struct{}) // of keys of the service that is away
		k := newKeyring(t, Options{
			Keys: []KeyConfig{{Name: "a", Active: works.uri, OpenOnly: []string{"test://works/keys/b"}}, {Name: "gone/*", Active: "test://away/keys/{1}"}},
			Open: func(ctx context.Context, uri string) (crypto.Provider, error) {
				switch {
				case strings.HasPrefix(uri, "test://works/"):
					return works, nil
				case strings.HasPrefix(uri, "test://away/keys/slow"):
					<-opens
				}
				return away, nil
			}})
		k.Confirm("ns")
		var wg sync.WaitGroup
		for i := range 300 {
			for _, name := range []string{"gone/", "gone/slow"} {
				wg.Go(func() { _, _, _ = k.Sealer(t.Context(), "ns", fmt.Sprint(name, i)) })
			}
		}
		time.Sleep(time.Second)
		start := time.Now()
		if _, _, err := k.Sealer(t.Context(), "ns", "a"); err != nil {
			t.Errorf("a key of another service: %v", err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("it took %v, want no wait", took)
		}
		if away.busiest > maxCalls {
			t.Errorf("%d calls at once to one service, want at most %d", away.busiest, maxCalls)
		}
		close(opens)
		close(away.block)
		wg.Wait()
		if n := k.core.service.calls.size() + k.core.service.opens.size(); n > 0 {
			t.Errorf("%d services have places although nothing calls them", n)
		}
	})
}

func TestServiceOf(t *testing.T) {
	for uri, want := range map[string]string{
		"local:seal.key":                    "local:",
		"awskms://1234?region=eu-central-1": "awskms:?region=eu-central-1",
		"awskms://alias/a?region=us-east-1&role_arn=arn:aws:iam::1:role/r": "awskms:alias?region=us-east-1",
		"awskms://arn:aws:kms:eu-central-1:111122223333:key/1234":          "awskms:arn:aws:kms:eu-central-1:111122223333:key",
		"awskms://arn:aws:kms:eu-central-1:111122223333:key/5678":          "awskms:arn:aws:kms:eu-central-1:111122223333:key",
		"gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k":          "gcpkms:projects",
		"azurekeyvault://v.vault.azure.net/keys/k?signing_key=s":           "azurekeyvault:v.vault.azure.net",
		"vault://vault.example/transit/k?token_file=/t":                    "vault:vault.example",
		"plugin://main/k?token_file=/t&address=unix:/run/k.sock":           "plugin:main?address=unix:/run/k.sock",
	} {
		if got := serviceOf(uri); got != want {
			t.Errorf("%s: service %q, want %q", uri, got, want)
		}
	}
}

func TestColdOpensAreCoalesced(t *testing.T) {
	fakeTime(t, testColdOpensAreCoalesced) // however slow the machine is
}

func testColdOpensAreCoalesced(t *testing.T) {
	carrier, k, p := coldPayload(t)
	before := p.count()
	p.block = make(chan struct{})
	var wg sync.WaitGroup
	first, leave := context.WithCancel(t.Context())
	started := make(chan struct{})
	wg.Go(func() {
		close(started)
		_, err := openIn(first, k, carrier, "ns")
		wantKind(t, err, crypto.KindUnavailable)
	})
	<-started
	for k.opening.flights.size() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 10_000 {
		wg.Go(func() {
			if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	leave() // the work goes on without the caller that began it
	time.Sleep(50 * time.Millisecond)
	close(p.block)
	wg.Wait()
	if n := p.count() - before; n != 1 {
		t.Errorf("%d calls to the key service for 10,000 callers, want 1", n)
	}
}

func TestNobodyWaitsNobodyAsks(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		carrier, k, p := coldPayload(t)
		p.answer(errors.New("no answer"))
		_, err := open(k, carrier, "ns")
		wantKind(t, err, crypto.KindUnavailable)
		time.Sleep(5 * time.Second)
		before := p.count()
		time.Sleep(time.Hour)
		if n := p.count() - before; n != 0 || k.opening.flights.size() != 0 {
			t.Errorf("%d calls for a caller that has left", n)
		}
	})
}

func (g *flights[K, V]) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.m)
}

func TestSteadyStateMakesNoCalls(t *testing.T) {
	k, p := ring(t)
	seal(t, k, "x")
	before := p.count()
	for range 5_000 {
		if _, err := open(k, seal(t, k, "x"), "ns"); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.count() - before; n != 0 {
		t.Errorf("%d calls to the key service in 5,000 payloads", n)
	}
}

func TestMadeUpNamespacesAreBounded(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		carrier := seal(t, k, "payload")
		before := p.count()
		for i := range 2_000 {
			k.Sealer(t.Context(), fmt.Sprint("made-up-", i), "default")
		}
		if n := p.count() - before; n > 64 {
			t.Errorf("%d calls to the key service for 2,000 made-up namespaces, want at most 64", n)
		}
		slots := 0
		k.core.slots.confirmed.Range(func(any, any) bool { slots++; return true })
		if n := k.core.slots.unconfirmed.Len(); n > maxUnconfirmed || slots != 1 {
			t.Errorf("%d unconfirmed and %d confirmed slots in memory", n, slots)
		}
		if _, err := open(k, carrier, "ns"); err != nil {
			t.Errorf("the real namespace suffers: %v", err)
		}
		k.Confirm("made-up-1999")
		if _, _, err := k.Sealer(t.Context(), "made-up-1999", "default"); err != nil {
			t.Errorf("a namespace that turned out to be real: %v", err)
		}
	})
}

// TestMadeUpNamespacesTakeNoMemory: neither for sealing nor for opening does a name that nobody confirmed leave a trace.
func TestMadeUpNamespacesTakeNoMemory(t *testing.T) {
	k, _ := ring(t)
	carrier := seal(t, k, "payload")
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			ns := fmt.Sprintf("made-up-%d-%s", i, strings.Repeat("x", 200))
			if _, _, err := k.Sealer(expired, ns, "default"); err != nil { // a few are let through
				wantKind(t, err, crypto.KindUnavailable)
			}
			if _, err := openIn(expired, k, carrier, ns); crypto.KindOf(err) != crypto.KindForeign {
				t.Fatal(err)
			}
		}
		for k.sealing.flights.size() > 0 {
			time.Sleep(time.Millisecond) // nobody waits for these any more
		}
	}
	flood(0, 2_000)
	before := heap()
	flood(2_000, 20_000)
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("18,000 more names take %d bytes", grown)
	}
}

// expired is the context of a caller who does not wait: what they requested is released at once.
var expired = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// foreignKeys are payloads that other processes sealed with many data keys, and the service that unwraps these.
func foreignKeys(t *testing.T, n int) (k *Keyring, p *scripted, carriers [][]byte) {
	t.Helper()
	k, p = ring(t)
	kc := crypto.KeyContext{Namespace: "ns", Key: "default"}
	kek := sealer(t, k, "ns", "default").dk.kek
	for range n {
		plain, wrapped, err := p.GenerateDataKey(t.Context(), kc)
		if err != nil {
			t.Fatal(err)
		}
		dk, err := newDataKey(kek, kc, plain, wrapped)
		if err != nil {
			t.Fatal(err)
		}
		carrier, err := newSealer(dk).appendPayload(nil, []byte("payload"), false)
		if err != nil {
			t.Fatal(err)
		}
		carriers = append(carriers, carrier)
	}
	return k, p, carriers
}

// openAll opens the payloads of one message, from the last to the first, as rewriting does.
func openAll(ctx context.Context, k *Keyring, carriers [][]byte, run *Run) (opened int, errs map[crypto.Kind]int) {
	var reader envelope.Reader
	sealed := make([]envelope.Sealed, len(carriers))
	for i, c := range carriers {
		_, _ = reader.ParsePayload(&sealed[i], c)
	}
	run.Ahead(func(yield func(*envelope.Sealed) bool) {
		for i := range sealed {
			if !yield(&sealed[i]) {
				return
			}
		}
	})
	errs = make(map[crypto.Kind]int)
	for i := range slices.Backward(sealed) {
		if _, _, err := k.Open(ctx, nil, &sealed[i], "ns", run); err != nil {
			errs[crypto.KindOf(err)]++
		} else {
			opened++
		}
	}
	return opened, errs
}

// TestManyUnknownKeys: the data keys of a message are unwrapped many at once, however many there are.
func TestManyUnknownKeys(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p, carriers := foreignKeys(t, 300)
		busy, busiest := 0, 0
		p.unwrap = func([]byte, crypto.KeyContext) error {
			busy++
			busiest = max(busiest, busy)
			p.mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			p.mu.Lock()
			busy--
			return nil
		}
		start, before := time.Now(), p.count()
		if opened, errs := openAll(t.Context(), k, carriers, new(Run)); opened != 300 {
			t.Errorf("%d of 300 opened, errors %v", opened, errs)
		}
		if took, calls := time.Since(start), p.count()-before; took > 400*time.Millisecond || calls != 300 || busiest != maxAsking {
			t.Errorf("%d calls in %v, %d at once; want 300 in 19 rounds of 20 ms, %d at once", calls, took, busiest, maxAsking)
		}
		start = time.Now()
		if opened, errs := openAll(t.Context(), k, carriers, new(Run)); opened != 300 || p.count()-before != 300 || time.Since(start) != 0 {
			t.Errorf("again: %d of 300 opened, errors %v, %d calls in all", opened, errs, p.count()-before)
		}
	})
}

// TestUnknownKeysInAnOutage: the keys of a message wait together, not one after the other.
func TestUnknownKeysInAnOutage(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p, carriers := foreignKeys(t, 300)
		p.answer(errors.New("no answer"))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, errs := openAll(ctx, k, carriers, new(Run))
		if took := time.Since(start); errs[crypto.KindUnavailable] != 300 || took > 5*time.Second {
			t.Errorf("%v in %v; want all of them unavailable within the deadline", errs, took)
		}
	})
}

// TestRefusedUnwrapsAreBudgeted: a message can hold any number of wrapped keys that were made up. They cost few calls, and
// the good ones beside them open.
func TestRefusedUnwrapsAreBudgeted(t *testing.T) {
	k, p, good := foreignKeys(t, 40)
	sealed, _, err := envelope.ParsePayload(good[0])
	if err != nil {
		t.Fatal(err)
	}
	planted := make([][]byte, 500)
	for i := range planted {
		env := bytes.Clone(sealed.Envelope())
		copy(env[sealed.Header.Size()-60:], fmt.Sprintf("planted %03d", i))
		planted[i] = []byte(payloadOf(envelope.EncodingWhole, string(env)))
	}
	before := p.count()
	opened, errs := openAll(t.Context(), k, slices.Concat(good[:20], planted[:50], good[20:]), new(Run))
	if calls := p.count() - before; opened != 40 || errs[crypto.KindRejected] != 50 || calls != 90 {
		t.Errorf("%d of 40 opened beside 50 that were made up, errors %v, %d calls", opened, errs, calls)
	}
	before = p.count()
	_, errs = openAll(t.Context(), k, planted[50:], new(Run))
	calls := p.count() - before
	if calls < maxRefused || calls >= maxRefused+maxAsking || errs[crypto.KindRejected] != calls || errs[crypto.KindUnavailable] != 450-calls {
		t.Errorf("%d calls for 450 that were made up, errors %v; want %d or a few more", calls, errs, maxRefused)
	}
	if got, err := open(k, good[0], "ns"); err != nil || got != "payload" {
		t.Errorf("a known data key: %q, %v", got, err)
	}
}

func TestRefusalsAreRememberedForAWhile(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		carrier, k, p := coldPayload(t)
		p.answer(apiError(crypto.KindRejected, "InvalidCiphertextException"))
		before := p.count()
		for range 100 {
			_, err := open(k, carrier, "ns")
			wantKind(t, err, crypto.KindRejected)
		}
		if n := p.count() - before; n != 1 {
			t.Errorf("%d calls for one bad envelope, want 1", n)
		}
		p.answer(nil)
		time.Sleep(refusalLife + time.Second)
		if _, err := open(k, carrier, "ns"); err != nil {
			t.Error(err)
		}
	})
}
