package policy

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Engine holds the policy in force and replaces it when its sources change. What
// does not load never replaces what did.
type Engine struct {
	opts    Options
	log     *slog.Logger
	current atomic.Pointer[Policy]
	err     atomic.Pointer[error]

	bundles *bundles // nil: the sources are files

	// retired counts the evaluations of policies that are no longer in force.
	retired, retiredContent atomic.Uint64

	mu       sync.Mutex // one reload at a time
	rejected string     // revision that was read last and did not load
}

// NewEngine loads the first policy; without one there is no engine. An engine that takes
// its policy from a bundle follows it from here on, until the Watch of it ends.
func NewEngine(ctx context.Context, opts Options) (*Engine, error) {
	e := &Engine{opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler))}
	if opts.Bundle != nil {
		if err := e.follow(ctx); err != nil {
			return nil, err
		}
		return e, nil
	}
	p, err := Load(ctx, opts)
	if err != nil {
		return nil, err
	}
	e.current.Store(p)
	return e, nil
}

// follow starts with a bundle and waits for the first that makes a policy.
func (e *Engine) follow(ctx context.Context) error {
	take := func(ctx context.Context, files snapshot) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		p, err := prepare(ctx, e.opts, files)
		if err != nil {
			return err
		}
		switch before := e.current.Load(); {
		case before == nil:
			e.current.Store(p)
		case before.Revision() == p.Revision():
			e.restored(p.Revision())
		default:
			e.accept(p, before.Revision())
		}
		return nil
	}
	told := func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		switch p := e.current.Load(); {
		case p == nil: // the start tells by its own error
		case err == nil:
			e.restored(p.Revision())
		default:
			e.reject(p.Revision(), err)
		}
	}
	// The following outlives ctx, which may be that of the start alone.
	b, err := startBundles(context.WithoutCancel(ctx), *e.opts.Bundle, take, told)
	if err != nil {
		return err
	}
	if err := b.wait(ctx, *e.opts.Bundle); err != nil {
		b.stop()
		return err
	}
	e.bundles = b
	return nil
}

// Current returns the policy in force. Take it once per call, so that one revision
// decides all of its payloads.
func (e *Engine) Current() *Policy { return e.current.Load() }

// Status returns the revision in force, and why the newest sources are not, if so.
func (e *Engine) Status() (revision string, lastError error) {
	if err := e.err.Load(); err != nil {
		lastError = *err
	}
	return e.Current().Revision(), lastError
}

// Evaluations counts the decisions since the start that the cache did not answer, and how
// many of them hung on the payload's content, so that it never could.
func (e *Engine) Evaluations() (all, withContent uint64) {
	all, withContent = e.Current().Evaluations()
	return all + e.retired.Load(), withContent + e.retiredContent.Load()
}

// Reload reads the sources and puts them into force if they differ from what is, and
// load. It returns what Status then tells. A bundle is asked for by its own clock.
func (e *Engine) Reload(ctx context.Context) error {
	if e.bundles != nil {
		_, err := e.Status()
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	files, err := e.settled(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	inForce := e.Current().Revision()
	if err == nil {
		switch revision := files.revision(); revision {
		case inForce:
			e.restored(inForce)
			return nil
		case e.rejected:
			_, lastError := e.Status()
			return lastError
		default:
			e.rejected = revision
		}
		var p *Policy
		if p, err = prepare(ctx, e.opts, files); err == nil {
			e.accept(p, inForce)
			return nil
		}
	}
	e.reject(inForce, err)
	return err
}

// KeysChanged prepares the policy in force anew, so that no verdict is remembered with a default key or a rank of keys
// that the configuration no longer has. If the policy does not fit the new keys, the old one stays and the error says why.
func (e *Engine) KeysChanged(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, err := prepare(ctx, e.opts, slices.Clone(e.Current().sources)) // parsed anew: the old ones may be in use
	if err != nil {
		return err
	}
	e.swap(p)
	return nil
}

// swap puts a policy into force and keeps the count of what its predecessor evaluated.
func (e *Engine) swap(p *Policy) {
	all, withContent := e.current.Swap(p).Evaluations() // calls in flight may still add a few, which are not counted
	e.retired.Add(all)
	e.retiredContent.Add(withContent)
}

func (e *Engine) accept(p *Policy, before string) {
	e.rejected = ""
	e.err.Store(nil)
	e.swap(p)
	e.log.Info("policy reloaded", "policy_revision", p.Revision(), "before", before, "namespaces", len(p.teams))
	e.told(p.Revision(), nil)
}

// restored notes that broken sources were put back to what is in force.
func (e *Engine) restored(inForce string) {
	e.rejected = ""
	if e.err.Swap(nil) != nil {
		e.log.Info("policy sources are again those in force", "policy_revision", inForce)
		e.told(inForce, nil)
	}
}

func (e *Engine) reject(inForce string, err error) {
	old := e.err.Swap(&err)
	if old != nil && (*old).Error() == err.Error() {
		return // said already; an unreadable source is met again at every look
	}
	e.log.Error("new policy refused, the old one stays in force", "policy_revision", inForce, "error", err)
	e.told(inForce, err)
}

func (e *Engine) told(revision string, err error) {
	if e.opts.OnReload != nil {
		e.opts.OnReload(revision, err)
	}
}

const (
	settleStep = 50 * time.Millisecond
	// vanishWait is how long a namespace's file must be gone before its rules are:
	// editors and copy tools take a file away for a moment when they replace it.
	vanishWait = time.Second
)

// settled reads the sources until two looks agree, so that a policy is never made
// of files from before and after a change.
func (e *Engine) settled(ctx context.Context) (snapshot, error) {
	files, err := readSources(e.opts)
	deadline := time.Now().Add(vanishWait)
	for {
		step := settleStep
		whole := err == nil && !e.lacks(files)
		if !whole {
			step = vanishWait / 4
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(step):
		}
		again, errAgain := readSources(e.opts)
		same := err == nil && errAgain == nil && again.revision() == files.revision()
		if (same && whole) || time.Now().After(deadline) {
			return again, errAgain
		}
		files, err = again, errAgain
	}
}

// lacks tells whether a namespace has no file that has rules in force.
func (e *Engine) lacks(files snapshot) bool {
	there := map[string]bool{}
	for _, f := range files {
		there[f.namespace] = true
	}
	for name := range e.Current().teams {
		if !there[name] {
			return true
		}
	}
	return false
}
