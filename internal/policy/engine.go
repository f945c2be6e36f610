package policy

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Engine holds the policy in force and replaces it when its sources change. What
// does not load never replaces what did.
type Engine struct {
	opts    Options
	log     *slog.Logger
	current atomic.Pointer[Policy]

	mu  sync.Mutex // one reload at a time
	err atomic.Pointer[error]
}

// NewEngine loads the first policy; without one there is no engine.
func NewEngine(ctx context.Context, opts Options) (*Engine, error) {
	p, err := Load(ctx, opts)
	if err != nil {
		return nil, err
	}
	e := &Engine{opts: opts, log: opts.Log}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.current.Store(p)
	return e, nil
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
