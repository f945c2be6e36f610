package policy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Engine holds the policy in force and prepares the next one. What does not load
// never replaces what did.
type Engine struct {
	opts    Options
	current atomic.Pointer[Policy]
	bundles *bundles // nil: the sources are files

	mu      sync.Mutex                      // guards what the bundle's follower and its user share
	newest  Sources                         // of the bundle that came last
	fault   error                           // why there is no newer one
	offered func(ctx context.Context) error // takes the newest over, or returns why not; nil until Offer
}

// NewEngine loads the first policy; without the platform's module there is no engine. A namespace whose module does not load
// is held: see [Policy.Held]. An engine that takes its policy from a bundle follows it from here on, until Close; of a bundle,
// all modules load or none is taken.
func NewEngine(ctx context.Context, opts Options) (*Engine, error) {
	e := &Engine{opts: opts}
	if opts.Bundle != nil {
		return e, e.follow(ctx)
	}
	p, err := prepare(ctx, opts, readSources(opts, nil), atStart)
	if err != nil {
		return nil, err
	}
	e.current.Store(p)
	return e, nil
}

// follow starts with a bundle and waits for the first that makes a policy.
func (e *Engine) follow(ctx context.Context) error {
	// The following outlives ctx, which may be that of the start alone.
	b, err := startBundles(context.WithoutCancel(ctx), *e.opts.Bundle, e.take, func(err error) {
		if offered := e.note(nil, err); offered != nil {
			_ = offered(context.Background()) // whoever takes the newest over reports it
		}
	})
	if err != nil {
		return err
	}
	if err := b.wait(ctx); err != nil {
		b.stop()
		return err
	}
	e.bundles = b
	return nil
}

// take offers a new bundle, and returns an error if it is refused. Until Offer, it is put into force here.
func (e *Engine) take(ctx context.Context, files Sources) error {
	if offered := e.note(files, nil); offered != nil {
		return offered(ctx)
	}
	p, err := prepare(ctx, e.opts, files, nil)
	if err == nil {
		e.current.Store(p)
	}
	return err
}

// note records the newest bundle, or why there is none, and returns what takes it over.
func (e *Engine) note(newest Sources, fault error) (offered func(context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.newest, e.fault = newest, fault
	return e.offered
}

// Offer has each new bundle taken over by offered, which returns why it is not in force. Of files it does
// nothing.
func (e *Engine) Offer(offered func(ctx context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.offered = offered
}

// Close ends the following of a bundle.
func (e *Engine) Close() {
	if e.bundles != nil {
		e.bundles.stop()
	}
}

// Current returns the policy in force. Take it once per call, so that one revision
// decides all of its payloads.
func (e *Engine) Current() *Policy { return e.current.Load() }

// Err joins the reasons why newest sources are not in force.
func (p *Policy) Err() error {
	var errs []error
	for _, s := range p.stale {
		errs = append(errs, s.Err)
	}
	return errors.Join(errs...)
}

// Evaluations counts the decisions since the start that the cache did not answer, and how
// many of them depended on the payload's content, so that it never could.
func (e *Engine) Evaluations() (all, withContent uint64) {
	c := e.Current().counts
	return c.all.Load(), c.withContent.Load()
}

// Prepare makes a policy of sources and the given keys. Nothing that is in force changes. Modules that do
// not load are replaced by those in force, each in its namespace: see [Policy.Stale]. Of a bundle, all
// modules load or none is taken.
func (e *Engine) Prepare(ctx context.Context, files Sources, rank KeyRank, fallback DefaultKey) (*Policy, error) {
	before := e.Current()
	opts := e.opts
	opts.KeyRank, opts.DefaultKey = rank, fallback
	p, err := prepare(ctx, opts, files, before)
	if err != nil || e.opts.Bundle == nil || files[0].err != nil || len(p.stale) == 0 {
		return p, err
	}
	files = slices.Clone(before.sources)
	files[0].err = p.Err()
	return prepare(ctx, opts, files, before)
}

// Commit puts a prepared policy into force. It cannot fail.
func (e *Engine) Commit(p *Policy) { e.current.Store(p) }

// Same reports whether two policies were made of the same sources, with the same ones out of force for the
// same reasons.
func (p *Policy) Same(other *Policy) bool {
	return p.revision == other.revision && slices.EqualFunc(p.stale, other.stale, func(a, b Stale) bool {
		return a.Namespace == b.Namespace && a.Err.Error() == b.Err.Error()
	})
}

const (
	settleStep = 50 * time.Millisecond
	// vanishWait is how long a namespace's file must be gone before its rules are:
	// editors and copy tools take a file away for a moment when they replace it.
	vanishWait = time.Second
)

// Read reads the sources until two looks agree, so that a policy is never made
// of files from before and after a change. Of a bundle it is the newest.
func (e *Engine) Read(ctx context.Context) (Sources, error) {
	if e.opts.Bundle != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		files := e.newest
		if files == nil || e.fault != nil {
			files = e.Current().sources
		}
		files = slices.Clone(files)
		files[0].err = e.fault
		return files, nil
	}
	before := e.Current().owners()
	files := readSources(e.opts, before)
	deadline := time.Now().Add(vanishWait)
	for {
		step := settleStep
		whole := !files.lack(before)
		if !whole {
			step = vanishWait / 4
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(step):
		}
		again := readSources(e.opts, before)
		if whole && again.Revision() == files.Revision() || time.Now().After(deadline) {
			return again, nil
		}
		files = again
	}
}

// lack reports whether a source cannot be read, or a namespace has none any more.
func (s Sources) lack(namespaces []string) bool {
	there := s.namespaces()
	return slices.ContainsFunc(s, func(f source) bool { return f.err != nil }) ||
		slices.ContainsFunc(namespaces, func(name string) bool { return !slices.Contains(there, name) })
}
