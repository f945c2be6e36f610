package rewrite

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Sampler copies payloads in clear from calls, one whenever Want has asked for one: of requests before they are sealed, of
// answers after they are opened. A call never waits for it. It is safe for
// concurrent use.
type Sampler struct {
	wanted   atomic.Bool
	seen     atomic.Uint64
	tooLarge atomic.Uint64
	samples  chan Sample
}

// MaxSample bounds the payloads that are copied, in bytes.
const MaxSample = 256 << 10

// Sample is a copy of one payload in clear.
type Sample struct {
	Direction                             policy.Direction
	Namespace, WorkflowType, ActivityType string
	Kind, Name                            string
	Form                                  SampleForm
	Value                                 []byte // who gets the sample wipes it
	// Verdict is what the policy decided about a payload of a request. Shadowed: it stays in clear all the same.
	Verdict  policy.Verdict
	Shadowed bool
}

// SampleForm is what the bytes of a sample are.
type SampleForm int

// Forms of samples.
const (
	SamplePayload SampleForm = iota // a serialized Payload
	SampleFailure                   // a serialized Failure
	SampleText                      // a text
)

// NewSampler returns a sampler that has not been asked for anything.
func NewSampler() *Sampler { return &Sampler{samples: make(chan Sample, 1)} }

// Want asks for one more sample.
func (s *Sampler) Want() { s.wanted.Store(true) }

// Samples is where samples arrive, one for each call of Want.
func (s *Sampler) Samples() <-chan Sample { return s.samples }

// Seen is how many payloads in clear have passed by. TooLarge is how many would have been copied, but exceeded MaxSample.
func (s *Sampler) Seen() uint64     { return s.seen.Load() }
func (s *Sampler) TooLarge() uint64 { return s.tooLarge.Load() }

// nothing is the place of no payload.
const nothing = -1

// choose returns the place of the payload to copy, of n in a message; nothing if none is wanted.
func (s *Sampler) choose(n int) int {
	if n == 0 || !s.wanted.Load() {
		return nothing
	}
	return rand.IntN(n)
}

// saw counts payloads.
func (s *Sampler) saw(n int) {
	s.seen.Add(uint64(n))
}

// take hands over a copy of a payload, unless another call did it first. The texts of o alias a message.
func (s *Sampler) take(o Sample, value []byte) {
	if len(value) > MaxSample {
		s.tooLarge.Add(1)
		return
	}
	if !s.wanted.CompareAndSwap(true, false) {
		return
	}
	for _, text := range []*string{&o.Namespace, &o.WorkflowType, &o.ActivityType, &o.Name} {
		*text = strings.Clone(*text)
	}
	o.Value = bytes.Clone(value)
	select {
	case s.samples <- o:
	default: // nobody has fetched the one before
		clear(o.Value)
	}
}

// sample describes a payload about which the decider was asked last.
func (d *decider) sample(direction policy.Direction, s *slot) Sample {
	return Sample{Direction: direction, Namespace: d.call.namespace, WorkflowType: d.input.WorkflowType, ActivityType: d.input.ActivityType,
		Kind: s.f.kind, Name: d.message.name(s)}
}

// takeSample copies a slot of a request about which the policy has decided.
func takeSample(s *sealer, sl *slot, v *policy.Verdict, shadowed bool) {
	o := s.decider.sample(policy.Request, sl)
	o.Verdict, o.Shadowed = *v, shadowed
	switch sl.f.op {
	case opPayload:
	case opFailure:
		o.Form = SampleFailure
	case opText:
		o.Form = SampleText
	default: // it stays readable
		return
	}
	s.call.sampler().take(o, s.message.content(sl))
}

// sample copies a payload that was opened, before it is moved to its place. One of which members are sealed is left out: what
// else it holds was in clear, and a request brought it.
func (o *opener) sample(ctx context.Context, it *openItem, item int, plain []byte) {
	sampler := o.call.sampler()
	if sampler == nil {
		return
	}
	sampler.saw(1)
	if item == o.chosen && it.sealed.Form != envelope.FormView {
		o.decider.facts(ctx, it.slot)
		sampler.take(o.decider.sample(policy.Response, it.slot), plain)
	}
}
