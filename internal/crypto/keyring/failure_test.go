package keyring

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { fakeTime(t, f) })
}

func expect(t *testing.T, what string, err error, kind crypto.Kind) {
	t.Helper()
	if kind == works && err != nil || kind != works && crypto.KindOf(err) != kind {
		t.Errorf("%s: error of kind %v: %v; want %v", what, crypto.KindOf(err), err, kind)
	}
}

// coldPayload is a carrier whose data key the Keyring does not have.
func coldPayload(t *testing.T) ([]byte, *Keyring, *scripted) {
	t.Helper()
	s, p := defaultStore()
	writer := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open})
	writer.Confirm("ns")
	carrier := seal(t, writer, "payload")
	writer.Close()
	reader := newKeyring(t, Options{Keys: defaultKeys(), Open: s.open})
	reader.Confirm("ns")
	return carrier, reader, p
}

// use keeps a key in use for a while, as a worker would.
func use(t *testing.T, k *Keyring, carrier []byte, d time.Duration) {
	t.Helper()
	for range int(d / (10 * time.Minute)) {
		time.Sleep(10 * time.Minute)
		if _, err := open(k, carrier, "ns"); err != nil {
			t.Fatal(err)
		}
		sealer(t, k, "ns", "default")
	}
}

func TestOutageOfTheWholeGracePeriod(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		carrier := seal(t, k, "payload")
		use(t, k, carrier, 10*time.Hour)
		p.answer(errors.New("no route to host"))
		use(t, k, carrier, 6*time.Hour-10*time.Minute)
	})
}

func TestRenewalKeepsTheWorkingKey(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		carrier := seal(t, k, "payload")
		first := sealer(t, k, "ns", "default")
		seen := map[crypto.KeyID]bool{}
		for range 80 {
			use(t, k, carrier, time.Hour)
			seen[sealer(t, k, "ns", "default").dk.id] = true
		}
		if n := len(seen); n < 3 || n > 6 {
			t.Errorf("%d data keys in 80 hours, want one per 17 to 24 hours", n)
		}
		if old, err := first.appendPayload(nil, []byte("late"), false); err != nil {
			t.Errorf("a call that took the sealer before the renewal: %v", err)
		} else if got, err := open(k, old, "ns"); err != nil || got != "late" {
			t.Errorf("%q, %v", got, err)
		}
		working := sealer(t, k, "ns", "default").dk.id
		for sealer(t, k, "ns", "default").dk.id == working {
			use(t, k, carrier, 10*time.Minute)
		}
		working = sealer(t, k, "ns", "default").dk.id
		p.mu.Lock()
		p.generate = func(crypto.KeyContext) error { return errors.New("no answer") }
		p.mu.Unlock()
		use(t, k, carrier, 29*time.Hour) // renewal fails all the time, the working key goes on
		if sealer(t, k, "ns", "default").dk.id != working {
			t.Error("another key, though none could be made")
		}
		p.answer(nil)
		use(t, k, carrier, 10*time.Minute)
		if sealer(t, k, "ns", "default").dk.id == working {
			t.Error("not renewed after the key service came back")
		}
	})
}

func TestIdleKeysAreNotRenewed(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, _ := ring(t)
		seal(t, k, "payload")
		time.Sleep(60 * time.Hour)
		if sl := k.core.slots.find("ns", "default"); sl != nil {
			t.Error("a namespace that nobody uses still has its data key")
		}
		if _, hit, err := k.Sealer(t.Context(), "ns", "default"); hit || err != nil {
			t.Errorf("hit %v, error %v; want a fresh key", hit, err)
		}
	})
}

func TestRevocationIsSeenWithinTheProbeInterval(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		carrier := seal(t, k, "payload")
		held := sealer(t, k, "ns", "default")
		p.answer(apiError(crypto.KindRevoked, "DisabledException"))
		time.Sleep(65 * time.Second)
		_, err := open(k, carrier, "ns")
		wantKind(t, err, crypto.KindRevoked)
		_, err = held.appendPayload(nil, []byte("x"), false)
		wantKind(t, err, crypto.KindRevoked)
		if n := len(k.opening.keys.m); n != 0 {
			t.Errorf("%d data keys still in memory", n)
		}
		if k.core.slots.find("ns", "default").current.Load() != nil {
			t.Error("the working key is still in memory")
		}
	})
}

// TestOneContextIsDenied: a condition in IAM takes one namespace's access away and leaves the other's.
func TestOneContextIsDenied(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		k.Confirm("other")
		carrier := seal(t, k, "payload")
		sealer(t, k, "other", "default")
		denied := func(kc crypto.KeyContext) error {
			if kc.Namespace == "other" {
				return apiError(crypto.KindDenied, "AccessDeniedException")
			}
			return nil
		}
		p.mu.Lock()
		p.generate, p.unwrap = denied, func(_ []byte, kc crypto.KeyContext) error { return denied(kc) }
		p.mu.Unlock()
		mine := sealer(t, k, "ns", "default")
		use(t, k, carrier, 10*time.Minute)
		_, _, err := k.Sealer(t.Context(), "other", "default")
		wantKind(t, err, crypto.KindRevoked)
		if sealer(t, k, "ns", "default") != mine {
			t.Error("the other namespace lost its data key too")
		}
		if err := k.Ready(t.Context(), "ns", nil); err != nil {
			t.Errorf("the other namespace suffers: %v", err)
		}
	})
}

// TestAllContextsAreDenied: a policy takes all access away; that is seen for all namespaces soon, not for one per probe.
func TestAllContextsAreDenied(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		for i := range 30 {
			k.Confirm(fmt.Sprint("ns", i))
			sealer(t, k, fmt.Sprint("ns", i), "default")
		}
		p.answer(apiError(crypto.KindDenied, "AccessDeniedException"))
		time.Sleep(100 * time.Second)
		for i := range 30 {
			if s := k.core.slots.find(fmt.Sprint("ns", i), "default").current.Load(); s != nil {
				t.Errorf("ns%d still has its data key", i)
			}
		}
	})
}

// TestADeniedCallIsRepeated: one refusal stops new tasks, but the results of running ones are still sealed.
func TestADeniedCallIsRepeated(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		seal(t, k, "payload")
		p.answer(apiError(crypto.KindDenied, "AccessDeniedException"))
		deadline := time.Now().Add(70 * time.Second)
		for k.Ready(t.Context(), "ns", nil) == nil {
			if time.Now().After(deadline) {
				t.Fatal("still ready")
			}
			time.Sleep(time.Second)
		}
		wantKind(t, k.Ready(t.Context(), "ns", nil), crypto.KindUnavailable)
		if _, _, err := k.Sealer(t.Context(), "ns", "default"); err != nil {
			t.Errorf("a single refusal stops results that are under way: %v", err)
		}
		p.answer(nil)
		time.Sleep(12 * time.Second)
		if err := k.Ready(t.Context(), "ns", nil); err != nil {
			t.Errorf("after the next probe: %v", err)
		}
	})
}

// TestSealingAloneIsDenied: GenerateDataKey is no longer allowed, Decrypt is.
func TestSealingAloneIsDenied(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		k, p := ring(t)
		carrier := seal(t, k, "payload")
		p.mu.Lock()
		p.generate = func(crypto.KeyContext) error { return apiError(crypto.KindDenied, "AccessDeniedException") }
		p.mu.Unlock()
		for range 50 {
			time.Sleep(time.Hour)
			if _, err := open(k, carrier, "ns"); err != nil {
				t.Fatalf("what was sealed no longer opens: %v", err)
			}
			k.Sealer(t.Context(), "ns", "default")
		}
		_, _, err := k.Sealer(t.Context(), "ns", "default")
		wantKind(t, err, crypto.KindRevoked)
	})
}

func TestPlantedEnvelopesHarmNoGoodKey(t *testing.T) {
	for name, answer := range map[string]error{
		"access denied": apiError(crypto.KindDenied, "AccessDeniedException"), // what AWS says to a blob of another account
		"invalid":       apiError(crypto.KindRejected, "InvalidCiphertextException"),
		"other key":     apiError(crypto.KindRejected, "IncorrectKeyException"),
		"not found":     apiError(crypto.KindRevoked, "NotFoundException"),
	} {
		bubble(t, name, func(t *testing.T) {
			k, p := ring(t)
			carrier := seal(t, k, "payload")
			p.mu.Lock()
			p.unwrap = func(wrapped []byte, _ crypto.KeyContext) error {
				if _, ours := p.blobs[string(wrapped)]; !ours {
					return answer
				}
				return nil
			}
			p.mu.Unlock()
			for i := range 200 {
				s, _, err := envelope.ParsePayload(carrier)
				if err != nil {
					t.Fatal(err)
				}
				planted := append([]byte(nil), s.Envelope()...)
				copy(planted[s.Header.Size()-60:], fmt.Sprintf("planted %03d", i))
				_, err = open(k, []byte(payloadOf(envelope.EncodingWhole, string(planted))), "ns")
				if kind := crypto.KindOf(err); kind != crypto.KindRejected && kind != crypto.KindRevoked {
					t.Fatalf("a planted envelope: %v", err)
				}
				time.Sleep(time.Second)
			}
			if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
				t.Errorf("the good envelope: %q, %v", got, err)
			}
			if err := k.Ready(t.Context(), "ns", nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEverythingAtOnce seals and opens from many goroutines while keys are renewed, revoked, restored and reloaded.
// Whatever was sealed opens in the end, and no failure looks like tampering.
func TestEverythingAtOnce(t *testing.T) {
	fakeTime(t, func(t *testing.T) {
		p, second := newScripted("test:default"), newScripted("test:second")
		k := newKeyring(t, Options{Keys: defaultKeys(), Open: store{p.uri: p, second.uri: second}.open, DataKeyLife: 10 * time.Minute})
		k.Confirm("ns")
		end := time.Now().Add(3 * time.Hour)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var carriers [][]byte
		for worker := range 8 {
			wg.Go(func() {
				for time.Now().Before(end) {
					time.Sleep(time.Duration(10+worker) * time.Second)
					s, _, err := k.Sealer(t.Context(), "ns", "default")
					if err == nil {
						var carrier []byte
						if carrier, err = s.appendPayload(nil, []byte("payload"), false); err == nil {
							mu.Lock()
							carriers = append(carriers, carrier)
							mu.Unlock()
						}
					}
					if kind := crypto.KindOf(err); err != nil && kind != crypto.KindUnavailable && kind != crypto.KindRevoked {
						t.Errorf("seal: %v", err)
					}
					mu.Lock()
					carrier := append([]byte(nil), carriers[len(carriers)/(worker+1)%len(carriers)]...)
					mu.Unlock()
					got, err := open(k, carrier, "ns")
					if kind := crypto.KindOf(err); err != nil && kind != crypto.KindUnavailable && kind != crypto.KindRevoked && kind != crypto.KindRejected || err == nil && got != "payload" {
						t.Errorf("open: %q, %v", got, err)
					}
				}
			})
		}
		mu.Lock()
		carriers = append(carriers, seal(t, k, "payload"))
		mu.Unlock()
		keys := [][]KeyConfig{
			{{Name: "default", Active: "test:second", OpenOnly: []string{"test:default"}}},
			{{Name: "default", Active: "test:default", OpenOnly: []string{"test:second"}}},
		}
		for i := 0; time.Now().Before(end); i++ {
			time.Sleep(3 * time.Minute)
			switch i % 5 {
			case 0:
				p.answer(apiError(crypto.KindRevoked, "DisabledException"))
			case 1:
				p.answer(apiError(crypto.KindDenied, "AccessDeniedException"))
			case 2:
				p.answer(errors.New("no answer"))
			case 3:
				p.answer(nil)
			case 4:
				forget(k)
				if err := change(k, t.Context(), keys[i/5%2], nil, nil); err != nil {
					t.Error(err)
				}
			}
		}
		wg.Wait()
		p.answer(nil)
		time.Sleep(2 * time.Minute)
		for _, carrier := range carriers {
			if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
				t.Fatalf("%q, %v", got, err)
			}
		}
		if len(carriers) < 1_000 {
			t.Errorf("only %d payloads were sealed", len(carriers))
		}
	})
}
