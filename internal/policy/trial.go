package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what a candidate costs the calls that it is tried on. A decision that would take more is left out.
const (
	// trialTimeout is of one evaluation, and grows with the content as evalTimeout does.
	trialTimeout = 100 * time.Millisecond
	// trialShare is the part of one CPU that evaluations may take in the long run, and trialSaved for how long unused
	// time adds up.
	trialShare = 0.1
	trialSaved = 5 * time.Second
	// maxListed is how many distinct differences are kept, and maxListedText the length of each text of them.
	maxListed     = 200
	maxListedText = 256
)

// Compared is the outcome of a comparison.
type Compared uint8

// ComparedOutcomes are all outcomes.
var ComparedOutcomes = []Compared{ComparedSame, ComparedDifferent, ComparedTooSlow, ComparedLeftOut}

// The outcomes.
const (
	ComparedSame      Compared = iota // the candidate decides as the policy in force
	ComparedDifferent                 // it decides otherwise
	ComparedTooSlow                   // its evaluation took too long, so what it decides is not known
	ComparedLeftOut                   // it was not evaluated, since it had its share of the CPU
	numCompared
)

// String returns the word for the outcome in metrics.
func (c Compared) String() string {
	return [...]string{"same", "different", "too_slow", "left_out"}[c]
}

// Trial evaluates a candidate policy beside the one in force, on the same payloads. What it finds never reaches a call, and
// what it costs is bounded: one evaluation runs at a time, and together they take a tenth of a CPU. It is safe for concurrent
// use. A nil Trial has no candidate.
type Trial struct {
	candidate atomic.Pointer[Policy]
	counts    [numCompared]atomic.Uint64
	report    func(*Difference) // called for each decision that differs

	evaluating sync.Mutex // held by the evaluation that runs
	saved      time.Duration
	since      time.Time // when saved was brought up to date

	mu     sync.Mutex // guards listed
	listed map[string]*Difference
}

// NewTrial returns a Trial without a candidate. report is called for each decision that differs; it must not keep the
// difference.
func NewTrial(report func(*Difference)) *Trial {
	return &Trial{report: report, saved: trialTime(trialSaved), since: time.Now(), listed: map[string]*Difference{}}
}

// trialTime is what evaluations may take of a time.
func trialTime(d time.Duration) time.Duration { return time.Duration(float64(d) * trialShare) }

// Difference is a kind of decision that the candidate takes otherwise. It holds no value of a payload.
type Difference struct {
	Direction    string    `json:"direction"`
	Method       string    `json:"method"`
	Kind         string    `json:"kind"`
	Namespace    string    `json:"namespace"`
	WorkflowType string    `json:"workflow_type"`
	ActivityType string    `json:"activity_type"`
	From         Decision  `json:"from"` // of the policy in force
	To           Decision  `json:"to"`
	Count        int       `json:"count"`
	First        time.Time `json:"first"`
	Last         time.Time `json:"last"`
	// Revisions of the policy in force and of the candidate.
	InForce   string `json:"policy_revision"`
	Candidate string `json:"candidate_revision"`

	placed bool // the rules of From and To have been looked for
}

// key is what distinguishes differences.
func (d *Difference) key() string {
	return strings.Join([]string{d.Direction, d.Method, d.Kind, d.Namespace, d.WorkflowType, d.ActivityType,
		d.From.String(), d.To.String(), d.InForce, d.Candidate}, "\x00")
}

// Decision is what one of the policies decides.
type Decision struct {
	// Action is a verdict's, or "error".
	Action string `json:"action"`
	Key    string `json:"key,omitempty"`
	// Parts reports that members of the document alone are sealed, or all but some.
	Parts bool `json:"parts"`
	// Compressed reports that the payload may be compressed before it is sealed.
	Compressed bool `json:"compressed"`
	// Masked is how many members rules mask. Their names are left out: a rule may have computed them.
	Masked int `json:"masked_members"`
	// Rules are the places of the rules that led to it; none: no rule holds, or the evaluation failed.
	Rules []string `json:"rules,omitempty"`
}

// Active reports whether there is a candidate.
func (t *Trial) Active() bool { return t != nil && t.candidate.Load() != nil }

// Candidate returns the candidate; nil if there is none.
func (t *Trial) Candidate() *Policy { return t.candidate.Load() }

// Counted returns how many comparisons have had an outcome.
func (t *Trial) Counted(c Compared) uint64 { return t.counts[c].Load() }

// Try puts a loaded policy on trial, in the place of the one before.
func (t *Trial) Try(p *Policy) {
	for _, u := range p.units {
		for _, q := range u.queries {
			q.limit = trialTimeout
		}
	}
	t.candidate.Store(p)
}

// Compare evaluates the candidate for a payload about which the policy in force has decided: v, or an error in its place.
func (t *Trial) Compare(ctx context.Context, inForce *Policy, d Direction, in *Input, v Verdict, err error) {
	if t == nil || errors.Is(err, ErrTooMany) {
		return
	}
	candidate := t.candidate.Load()
	if candidate == nil {
		return
	}
	own := *in
	own.Call = nil // what the candidate costs is not the call's
	other, outcome, otherErr := t.decide(ctx, candidate, d, &own)
	if ctx.Err() != nil {
		return // the caller has left, which is an error of both
	}
	if outcome == ComparedSame && !sameDecision(v, err, other, otherErr) {
		outcome = ComparedDifferent
	}
	t.counts[outcome].Add(1)
	if outcome != ComparedDifferent {
		return
	}
	t.note(ctx, sides{inForce, candidate}, d, &own, decided(v, err), decided(other, otherErr))
}

// sides are the two policies of a comparison.
type sides struct{ inForce, candidate *Policy }

// decide returns what the candidate decides. The outcome is ComparedSame if it has decided at all.
func (t *Trial) decide(ctx context.Context, p *Policy, d Direction, in *Input) (Verdict, Compared, error) {
	if v, ok := p.remembered(d, in); ok {
		return v, ComparedSame, nil
	}
	if !t.begin() {
		return Verdict{}, ComparedLeftOut, nil
	}
	began := time.Now()
	defer t.end(began)
	v, err := p.Decide(ctx, d, in)
	if err != nil && time.Since(began) >= trialTimeout {
		return v, ComparedTooSlow, nil
	}
	return v, ComparedSame, err
}

// remembered returns the verdict that the policy cache has for a payload.
func (p *Policy) remembered(d Direction, in *Input) (v Verdict, ok bool) {
	if p.Held(in.Namespace) != nil {
		return v, false
	}
	q := p.queries(in.Namespace)[d&1]
	var space [512]byte
	key, err := q.appendKey(space[:0], in, q.reads.bits)
	if err != nil {
		return v, false
	}
	entry, _ := p.cache.get(key)
	if entry == nil || entry.content || entry.verdict.Action == Mask && checkMask(in) != nil {
		return v, false
	}
	v = entry.verdict
	v.forCaller(in)
	return v, true
}

// begin reports whether an evaluation may run now; end has to follow it then.
func (t *Trial) begin() bool {
	if !t.evaluating.TryLock() {
		return false
	}
	now := time.Now()
	t.saved = min(t.saved+trialTime(now.Sub(t.since)), trialTime(trialSaved))
	t.since = now
	if t.saved <= 0 {
		t.evaluating.Unlock()
		return false
	}
	return true
}

func (t *Trial) end(began time.Time) {
	t.saved -= time.Since(began)
	t.evaluating.Unlock()
}

// sameDecision reports whether two policies do the same with a payload. Reasons are words alone.
func sameDecision(a Verdict, aErr error, b Verdict, bErr error) bool {
	if aErr != nil || bErr != nil {
		return aErr != nil && bErr != nil
	}
	return a.Action == b.Action && a.Key == b.Key && a.Compress == b.Compress && a.Masked.equal(b.Masked) &&
		slices.Equal(a.Fields, b.Fields) && slices.Equal(a.Optional, b.Optional) && slices.Equal(a.Clear, b.Clear)
}

// decided describes a verdict. Which members are sealed is left out: a rule may have computed their names.
func decided(v Verdict, err error) Decision {
	if err != nil {
		return Decision{Action: "error"}
	}
	return Decision{Action: v.Action.String(), Key: cut(v.Key), Parts: v.Fields != nil || v.Clear != nil,
		Compressed: v.Compress, Masked: len(v.masked().Fields)}
}

// cut returns a text of a caller as the list keeps it: a copy of bounded length.
func cut(text string) string {
	if len(text) > maxListedText {
		text = strings.ToValidUTF8(text[:maxListedText], "") + "..."
	}
	return strings.Clone(text)
}

// note lists a difference, and reports it.
func (t *Trial) note(ctx context.Context, s sides, d Direction, in *Input, from, to Decision) {
	now := time.Now()
	seen := Difference{Direction: d.String(), Method: cut(in.RPC), Kind: cut(in.Kind), Namespace: cut(in.Namespace),
		WorkflowType: cut(in.WorkflowType), ActivityType: cut(in.ActivityType), From: from, To: to, First: now,
		InForce: s.inForce.revision, Candidate: s.candidate.revision}
	key := seen.key()
	t.mu.Lock()
	listed := t.listed[key]
	if listed == nil {
		t.makeRoom()
		listed = &seen
		t.listed[key] = listed
	}
	listed.Count++
	listed.Last = now
	placed := listed.placed
	t.mu.Unlock()
	if !placed && t.begin() {
		from.Rules, to.Rules = s.inForce.places(ctx, d, in, from.Action), s.candidate.places(ctx, d, in, to.Action)
		t.end(now)
		t.mu.Lock()
		listed.From, listed.To, listed.placed = from, to, true
		t.mu.Unlock()
	}
	t.mu.Lock()
	copied := *listed
	t.mu.Unlock()
	t.report(&copied)
}

// makeRoom removes the difference that was seen longest ago, if there are as many as are kept.
func (t *Trial) makeRoom() {
	if len(t.listed) < maxListed {
		return
	}
	oldest, last := "", time.Time{}
	for key, d := range t.listed {
		if oldest == "" || d.Last.Before(last) {
			oldest, last = key, d.Last
		}
	}
	delete(t.listed, oldest)
}

// String is the decision without its rules.
func (d Decision) String() string {
	text := d.Action
	if d.Key != "" {
		text += " with key " + d.Key
	}
	if d.Masked > 0 {
		text += fmt.Sprintf(", masking %d", d.Masked)
	}
	if d.Parts {
		text += ", in parts"
	}
	if d.Compressed {
		text += ", compressed"
	}
	return text
}

// places returns the places of the rules that propose an action. It evaluates each rule alone.
func (p *Policy) places(ctx context.Context, d Direction, in *Input, action string) []string {
	if p.Held(in.Namespace) != nil {
		return nil
	}
	q := p.queries(in.Namespace)[d&1]
	var all []string
	for _, part := range q.parts {
		answers, err := q.byRule(ctx, part, in)
		if err != nil {
			return all
		}
		for _, a := range answers {
			for _, v := range a.verdicts {
				if pr, err := parseProposal(v, q.direction, in.Kind); err == nil && pr.Action.String() == action {
					all = append(all, a.line)
				}
			}
		}
	}
	return unique(all)
}

// Differences returns the distinct differences between the candidate and the policy in force, those seen last first.
// Those of other revisions are left out.
func (t *Trial) Differences(inForce *Policy) []Difference {
	candidate := t.candidate.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	all := []Difference{}
	for _, d := range t.listed {
		if candidate != nil && d.Candidate == candidate.revision && d.InForce == inForce.revision {
			all = append(all, *d)
		}
	}
	slices.SortFunc(all, func(a, b Difference) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.key(), b.key())) })
	return all
}

// Reload loads the candidate if its sources have changed since the last try, or if again is set. It returns their revision, and
// whether it has tried. A candidate that does not load leaves the one before on trial.
func (t *Trial) Reload(ctx context.Context, o Options, last string, again bool) (revision string, tried bool, err error) {
	files := readSources(o, nil)
	if revision = files.Revision(); revision == last && !again {
		return revision, false, nil
	}
	for range 20 { // a look more while files are being written
		time.Sleep(settleStep)
		before := revision
		files = readSources(o, nil)
		if revision = files.Revision(); revision == before {
			break
		}
	}
	p, err := prepare(ctx, o, files, nil)
	if err == nil {
		t.Try(p)
	}
	return revision, true, err
}
