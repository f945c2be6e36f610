package rewrite

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

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

// Account tells what became of the sealed payloads in the answer, if the
// Rewriter was made to keep accounts. What a caller did not get, since the
// answer failed as a whole, does not stand in it as opened. It lives until Done.
func (c *Call) Account() []Handled { return c.account }

// WorkflowRun is the run that the request names, where an account is kept.
func (c *Call) WorkflowRun() string { return c.workflowRun }

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

// runOf gives the run in a serialised WorkflowExecution.
func runOf(b []byte) (run string) {
	_ = eachField(b, 0, len(b), func(num protowire.Number, wire protowire.Type, _, _, from, to int) { // what is malformed is refused elsewhere
		if num == 2 && wire == protowire.BytesType {
			run = string(b[from:to])
		}
	})
	return run
}
