package keyring

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// outage is one way in which a key service fails: what Decrypt and GenerateDataKey answer.
type outage struct {
	Code, State       string
	Decrypt, Generate string // kinds
}

const works = crypto.KindUnknown

// outages are every error that AWS documents for the two operations, beside services that do not answer at all or contradict
// themselves. package awskms has the same list, and finds these kinds in the answers of a service over HTTP.
func outages(t *testing.T) []outage {
	t.Helper()
	all := []outage{{Code: "no answer", Decrypt: "unknown", Generate: "unknown"}}
	text, err := os.ReadFile("../../../testdata/kms/errors.json")
	var aws []outage
	if err == nil {
		err = json.Unmarshal(text, &aws)
	}
	if err != nil || len(aws) == 0 {
		t.Fatalf("%d errors, error %v", len(aws), err)
	}
	return append(all, aws...)
}

// outageErr is an error of a provider; one that no provider has judged counts as unavailable.
func outageErr(t *testing.T, kind, code string) (crypto.Kind, error) {
	for k := crypto.KindUnknown; k <= crypto.KindDenied; k++ {
		if k.String() == kind {
			if k == crypto.KindUnknown {
				return crypto.KindUnavailable, errors.New("connection refused")
			}
			return k, apiError(k, code)
		}
	}
	t.Fatalf("%q is no kind", kind)
	return 0, nil
}

// failing is an outage of one operation or of both, and what is to follow from it.
type failing struct {
	generate, decrypt                      error
	coldSeal, coldOpen, warmSeal, warmOpen crypto.Kind
	contradicts                            bool // the service refuses to make keys for good, and unwraps them all the same
}

func (o *outage) failing(t *testing.T, op string) (f failing) {
	g, generate := outageErr(t, o.Generate, o.Code)
	d, decrypt := outageErr(t, o.Decrypt, o.Code)
	withdrawn := func(k crypto.Kind) crypto.Kind { // what denied or revoked comes to, for a good blob
		if k == crypto.KindDenied {
			return crypto.KindRevoked
		}
		return k
	}
	if op != "Decrypt" {
		f.generate, f.coldSeal = generate, withdrawn(g)
		f.contradicts = op == "GenerateDataKey" && withdrawn(g) == crypto.KindRevoked
	}
	if op != "GenerateDataKey" {
		f.decrypt, f.coldOpen = decrypt, d
		if f.coldSeal == works {
			f.coldSeal = withdrawn(d) // a fresh key is unwrapped before anything is sealed with it
		}
		if d == crypto.KindDenied {
			f.coldOpen = crypto.KindRejected // AWS answers so for foreign blobs: it concerns this envelope alone
		}
		if withdrawn(d) == crypto.KindRevoked {
			f.warmSeal, f.warmOpen = crypto.KindRevoked, crypto.KindRevoked
		}
	}
	return f
}

func (f *failing) begin(p *scripted) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generate = func(crypto.KeyContext) error { return f.generate }
	p.unwrap = func([]byte, crypto.KeyContext) error { return f.decrypt }
}

// TestFailureTable walks the table in docs/design.md: each failure of the key service, of one operation and of both, for
// sealing and opening, with and without keys in memory, and with a key that is due for renewal.
func TestFailureTable(t *testing.T) {
	for _, o := range outages(t) {
		for _, op := range []string{"GenerateDataKey", "Decrypt", "both"} {
			f := o.failing(t, op)
			name := strings.ReplaceAll(strings.TrimSuffix(o.Code+" "+o.State, " "), " ", "-") + "/" + op
			for state, test := range map[string]func(*testing.T, *failing){
				"seal/cold": sealCold, "open/cold": openCold, "warm": sealAndOpenWarm, "expired": sealAndOpenExpired,
			} {
				t.Run(name+"/"+state, func(t *testing.T) { fakeTime(t, func(t *testing.T) { test(t, &f) }) })
			}
		}
	}
}

func sealCold(t *testing.T, f *failing) {
	k, p := ring(t)
	f.begin(p)
	_, _, err := k.Sealer(t.Context(), "ns", "default")
	expect(t, "seal", err, f.coldSeal)
	p.answer(nil)
	time.Sleep(15 * time.Second)
	if _, _, err := k.Sealer(t.Context(), "ns", "default"); err != nil {
		t.Errorf("after the failure is over: %v", err)
	}
}

func openCold(t *testing.T, f *failing) {
	carrier, k, p := coldPayload(t)
	f.begin(p)
	_, err := open(k, carrier, "ns")
	expect(t, "open", err, f.coldOpen)
	p.answer(nil)
	time.Sleep(refusalLife)
	if _, err := open(k, carrier, "ns"); err != nil {
		t.Errorf("after the failure is over: %v", err)
	}
}

func sealAndOpenWarm(t *testing.T, f *failing) {
	k, p := ring(t)
	carrier := seal(t, k, "payload")
	f.begin(p)
	if got, err := open(k, carrier, "ns"); err != nil || got != "payload" {
		t.Errorf("right after the failure began: %q, %v", got, err)
	}
	time.Sleep(75 * time.Second)
	calls := p.count()
	_, err := open(k, carrier, "ns")
	expect(t, "open", err, f.warmOpen)
	_, _, err = k.Sealer(t.Context(), "ns", "default")
	expect(t, "seal", err, f.warmSeal)
	if f.warmSeal == works && p.count() != calls {
		t.Errorf("%d calls to the key service with a key in memory", p.count()-calls)
	}
	healed(t, k, p, carrier)
}

func sealAndOpenExpired(t *testing.T, f *failing) {
	k, p := ring(t)
	carrier := seal(t, k, "payload")
	use(t, k, carrier, 14*time.Hour) // almost due for renewal
	f.begin(p)
	time.Sleep(5*time.Hour + 55*time.Minute) // due, and within the grace period
	if !f.contradicts {
		_, err := open(k, carrier, "ns")
		expect(t, "open within the grace period", err, f.warmOpen)
		_, _, err = k.Sealer(t.Context(), "ns", "default")
		expect(t, "seal within the grace period", err, f.warmSeal)
	}
	time.Sleep(10 * time.Minute)
	_, opening := open(k, carrier, "ns")
	_, _, sealing := k.Sealer(t.Context(), "ns", "default")
	if f.decrypt != nil && (opening == nil || sealing == nil) {
		t.Errorf("after the grace period: open %v, seal %v", opening, sealing)
	}
	if kind := crypto.KindOf(sealing); f.contradicts && sealing != nil && kind != crypto.KindRevoked {
		t.Errorf("seal, where no key is made and the others unwrap: %v", sealing)
	}
	healed(t, k, p, carrier)
}

func healed(t *testing.T, k *Keyring, p *scripted, carrier []byte) {
	t.Helper()
	p.answer(nil)
	time.Sleep(2 * refusalLife)
	if _, err := open(k, carrier, "ns"); err != nil {
		t.Errorf("open, after the failure is over: %v", err)
	}
	if _, _, err := k.Sealer(t.Context(), "ns", "default"); err != nil {
		t.Errorf("seal, after the failure is over: %v", err)
	}
}
