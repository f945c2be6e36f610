package policy

import "context"

// Policy is one revision of all rules, immutable and safe for concurrent use.
type Policy struct {
	revision string
}

// Revision names the sources: the same files give the same revision everywhere.
func (p *Policy) Revision() string { return p.revision }

// Load reads, checks and prepares a policy.
func Load(ctx context.Context, opts Options) (*Policy, error) {
	return &Policy{}, nil
}

// Decide answers for one payload. The slices of the verdict are shared: do not change them.
func (p *Policy) Decide(ctx context.Context, d Direction, in *Input) (Verdict, error) {
	return Verdict{Action: Seal, Key: "default"}, nil
}

// Explanation tells how a decision came about.
type Explanation struct {
	Revision string
	Verdict  Verdict
}

// Explain decides without the memo and tells how.
func (p *Policy) Explain(ctx context.Context, d Direction, in *Input) (Explanation, error) {
	return Explanation{}, nil
}

// Engine holds the current policy and replaces it when its sources change.
type Engine struct{}

// NewEngine loads the first policy.
func NewEngine(ctx context.Context, opts Options) (*Engine, error) { return &Engine{}, nil }

// Current returns the policy in force: take it once per call.
func (e *Engine) Current() *Policy { return &Policy{} }

// Watch follows the sources until ctx ends.
func (e *Engine) Watch(ctx context.Context) error { return nil }

// Status returns the revision in force and why the newest sources are not, if so.
func (e *Engine) Status() (revision string, lastError error) { return "", nil }
