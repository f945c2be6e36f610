package policy

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
)

// Bounds of what the decisions about one message may cost, beside those of each evaluation.
const (
	maxEvaluations = 10_000           // of a request
	maxSpent       = 20 * time.Second // of the wall clock, like evalTimeout
)

// ErrTooMany means that a request has more payloads that have to be evaluated one by one than a request may.
var ErrTooMany = fmt.Errorf("the message has more than %d payloads that rules have to look into one by one; "+
	"split it, or put guards in front of rules that read the content", maxEvaluations)

// Memory counts what a call takes. It gives it back when the call ends.
type Memory interface {
	// Charge counts n bytes more, or returns why the call may not have them.
	Charge(n int64) error
}

// Call is what the decisions about the payloads of one message share: memory, the bounds of their cost, and
// the last verdicts. It is not safe for concurrent use.
type Call struct {
	Memory Memory // nil: no limit

	charged     int64 // for the content that took most; only one is in memory at a time
	evaluations int
	spent       time.Duration

	// recent are the last decisions that the policy cache did not hold, the oldest replaced first. They may
	// depend on the content, and their keys leave out what the evaluation has not read.
	recent []decision
	made   int
	unread [len(traced)]bool // which sets of traced members the keys of recent leave out
}

// decision is a verdict that later payloads of the message share.
type decision struct {
	key     [sha256.Size]byte
	verdict Verdict
	content bool // the rules reach the content: the verdict stands in another decision

	withContent bool // the key has the content, on which the verdict depends
}

// maxRecent is how many decisions a call keeps.
const maxRecent = 16

// traced are the sets of the members of which an evaluation notes whether it reads them, the last with all
// of them. They differ between payloads of a message that are alike otherwise.
var traced = [...]MemberSet{0, readName, readPath, allTraced}

const allTraced = readName | readPath

// charge counts n bytes for the content that is being decoded.
func (c *Call) charge(n int64) error {
	if c == nil || c.Memory == nil || n <= c.charged {
		return nil
	}
	err := c.Memory.Charge(n - c.charged)
	if err == nil {
		c.charged = n
	}
	return err
}

// begin counts an evaluation, or returns why the message may not have another one.
func (c *Call) begin(d Direction) error {
	if c == nil {
		return nil
	}
	if c.evaluations++; c.evaluations > maxEvaluations && d == Request {
		return ErrTooMany
	}
	return nil
}

// left returns how long evaluations of the message may still take.
func (c *Call) left() time.Duration {
	if c == nil {
		return maxSpent
	}
	return maxSpent - c.spent
}

// spend counts the time since then.
func (c *Call) spend(since time.Time) {
	if c != nil {
		c.spent += time.Since(since)
	}
}

// find returns the decision about a payload that differs in nothing that its evaluation has read, or nil.
// reachesContent: the rules are known to reach the content.
func (c *Call) find(q *query, in *Input, reachesContent bool) *decision {
	if c == nil || len(c.recent) == 0 {
		return nil
	}
	var found *decision
	if !reachesContent {
		if found = c.match(q, in, nil); found == nil || !found.content {
			return found
		}
	}
	content := sha256.Sum256(in.Data)
	if exact := c.match(q, in, content[:]); exact != nil {
		return exact
	}
	return found
}

// match looks for a decision by keys with or without the content.
func (c *Call) match(q *query, in *Input, content []byte) *decision {
	for i, unread := range c.unread {
		if !unread {
			continue
		}
		key, ok := q.sharedKey(in, i, content)
		same := func(d decision) bool { return d.key == key }
		if j := slices.IndexFunc(c.recent, same); ok && j >= 0 {
			return &c.recent[j]
		}
	}
	return nil
}

// keep notes a decision. read are the traced members that the evaluation has read.
func (c *Call) keep(q *query, in *Input, read MemberSet, d decision) {
	if c == nil {
		return
	}
	var content []byte
	if d.withContent {
		sum := sha256.Sum256(in.Data)
		content = sum[:]
	}
	i := slices.Index(traced[:], allTraced&^read)
	var ok bool
	if d.key, ok = q.sharedKey(in, i, content); !ok {
		return
	}
	if len(c.recent) < maxRecent {
		c.recent = append(c.recent, d)
	} else {
		c.recent[c.made%maxRecent] = d
	}
	c.unread[i] = true
	c.made++
}

// sharedKey returns the key of a decision, which leaves out one of the sets of traced members.
func (q *query) sharedKey(in *Input, unread int, content []byte) (key [sha256.Size]byte, ok bool) {
	var space [512]byte
	b, err := q.appendKey(append(space[:0], byte(unread)), in, q.reads.bits&^traced[unread])
	if content != nil {
		b = append(appendText(b, in.Encoding), content...)
	}
	return sha256.Sum256(b), err == nil
}
