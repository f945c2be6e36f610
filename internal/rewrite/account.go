package rewrite

import (
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
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

// handled enters one payload into the account.
func (c *Call) handled(kind string, h *keyring.Header, o Outcome) {
	if c.r.accounts {
		c.enter(kind, h.Namespace, h.Key, o, 1)
	}
}

func (c *Call) enter(kind, namespace, key string, o Outcome, count int) {
	for i := range c.account {
		if a := &c.account[i]; a.Kind == kind && a.Outcome == o && a.Key == key && a.Namespace == namespace {
			a.Count += count
			return
		}
	}
	n := len(c.account)
	if n >= maxHandled && kind != "other" {
		c.enter("other", "", "", o, count)
		return
	}
	// The names alias the answer. The calls before have mostly left the same ones here.
	if n < cap(c.account) {
		if old := &c.account[:n+1][n]; old.Key == key && old.Namespace == namespace {
			namespace, key = old.Namespace, old.Key
			c.account = append(c.account, Handled{kind, namespace, key, o, count})
			return
		}
	}
	c.account = append(c.account, Handled{kind, strings.Clone(namespace), strings.Clone(key), o, count})
}

// withhold takes out of the account what the caller does not get after all.
func (c *Call) withhold() {
	left := c.account[:0]
	for _, a := range c.account {
		if a.Outcome == Denied || a.Outcome == Failed {
			left = append(left, a)
		}
	}
	c.account = left
}

// outcomeOf is the end that a decided payload meets, if it opens.
func outcomeOf(a policy.Action) Outcome {
	switch a {
	case policy.Open:
		return Opened
	case policy.Redact:
		return Redacted
	case policy.Keep:
		return Kept
	}
	return Denied
}
