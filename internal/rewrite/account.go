package rewrite

import (
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Stats count what happened to one message.
type Stats struct {
	Payloads int      // payloads sealed or opened
	Bytes    int      // of these, as they came
	Passed   int      // left as they were
	Unopened int      // answers: could not be opened and stay sealed
	Later    int      // of these, by a cause that may pass by itself
	Keys     []string // the keys used, each once
	CacheHit bool     // every data key was at hand
}

func (s *Stats) reset() { *s = Stats{Keys: s.Keys[:0], CacheHit: true} }

func (s *Stats) used(key string, size int, hit bool) {
	s.Payloads++
	s.Bytes += size
	s.CacheHit = s.CacheHit && hit
	for _, k := range s.Keys {
		if k == key {
			return
		}
	}
	// A call's buffers serve the next one: mostly the same key's name stands there already.
	if n := len(s.Keys); n < cap(s.Keys) && s.Keys[:n+1][n] == key {
		s.Keys = s.Keys[:n+1]
		return
	}
	s.Keys = append(s.Keys, strings.Clone(key))
}

// add counts what happened to a message within a message.
func (s *Stats) add(o *Stats) {
	for _, key := range o.Keys {
		s.used(key, 0, o.CacheHit)
		s.Payloads--
	}
	s.Payloads += o.Payloads
	s.Bytes += o.Bytes
	s.Passed += o.Passed
	s.Unopened += o.Unopened
	s.Later += o.Later
}

// Outcome is what became of a sealed payload in an answer.
type Outcome string

// Outcomes.
const (
	Opened   Outcome = "opened"
	Redacted Outcome = "redacted"
	Kept     Outcome = "kept"
	Denied   Outcome = "denied"
	Failed   Outcome = "failed" // the policy says open, and the envelope or its key does not
)

// Handled counts the payloads of one kind in an answer that were sealed with
// one key and met the same end. Namespace and Key are what the envelopes say.
type Handled struct {
	Kind, Namespace, Key string
	Outcome              Outcome
	Count                int
}

// maxHandled bounds an account, whatever names planted envelopes bear. What
// comes beyond it is counted under the kind "other", by outcome.
const maxHandled = 64

// account counts what became of the sealed payloads in an answer.
type account []Handled

func (a *account) enter(h Handled) {
	for i := range *a {
		if e := &(*a)[i]; e.Kind == h.Kind && e.Outcome == h.Outcome && e.Key == h.Key && e.Namespace == h.Namespace {
			e.Count += h.Count
			return
		}
	}
	n := len(*a)
	if n >= maxHandled && h.Kind != "other" {
		a.enter(Handled{Kind: "other", Outcome: h.Outcome, Count: h.Count})
		return
	}
	// The names alias the answer. The calls before have mostly left the same ones here.
	if n < cap(*a) && (*a)[:n+1][n].Key == h.Key && (*a)[:n+1][n].Namespace == h.Namespace {
		h.Namespace, h.Key = (*a)[:n+1][n].Namespace, (*a)[:n+1][n].Key
	} else {
		h.Namespace, h.Key = strings.Clone(h.Namespace), strings.Clone(h.Key)
	}
	*a = append(*a, h)
}

// withhold takes out of the account what the caller does not get after all.
func (a *account) withhold() {
	*a = slices.DeleteFunc(*a, func(h Handled) bool { return h.Outcome != Denied && h.Outcome != Failed })
}

// enter enters one payload into the account, if one is kept.
func (o *opener) enter(kind string, h *envelope.Header, outcome Outcome) {
	if o.call.rewriter.accounts {
		o.account.enter(Handled{kind, h.Namespace, h.Key, outcome, 1})
	}
}

// enterItem enters into the account what became of one sealed payload.
func (o *opener) enterItem(it *openItem, err error) {
	outcome := outcomes[it.action]
	if err != nil {
		outcome = Failed
	}
	o.enter(o.slot(it).f.kind, it.sealed.Header, outcome)
}

// outcomes are the ends that decided payloads meet, if they open.
var outcomes = [...]Outcome{policy.Open: Opened, policy.Redact: Redacted, policy.Keep: Kept, policy.Deny: Denied}
