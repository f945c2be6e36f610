package app

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// What applies while the proxy runs, and what needs a restart.
//
// These apply at once, to new calls and where noted to calls under way:
//
//   - `keys`, `grants` and `revoked_data_keys` of the config file, also for calls under way
//   - `foreign` of the config file, with the keys in its files
//   - the platform's policy file, the namespaces' policy files, and the content of a policy bundle
//
// Beside them there are files with certificates, authorities, tokens, API keys, key sets of JWT issuers, and local
// keys. Whatever uses one of these files reads it again by itself when it changes. They are no part of a state, so
// none of them waits for another.
//
// Everything else in the config file needs a restart, the place of the policy (`policy`) included. Until then
// temporal_seal_restart_pending is 1 and /readyz names the changed keys of the config file.
//
// A config file that is not valid changes nothing, and calls go on with what is in force; its `revoked_data_keys`
// hold all the same if they can be read (state.go). It is tried again: see applier.
//
// A valid file is applied as far as it goes (build in state.go): a key whose new URI does not answer keeps its old one, a
// policy module that does not load keeps the one in force, and a key that a policy in force names stays though the file
// lacks it. /readyz and the log name what differs.
//
// A policy module that does not load is replaced in its own namespace alone (choose in policy/load.go): by the one in force;
// for a namespace that had none the platform's rules go on alone; at the start, where nothing was in force, the namespace is
// held, and without the platform's module there is no start. Of a bundle all modules are taken or none (policy/engine.go).
//
// A call uses one policy, and one reader of other tools' formats, from its start to its end: two
// payloads of one message are never decided by two revisions. Keys are always those of the newest set,
// so that a revoked data key, a removed key or a removed grant stops opening for calls under way too.
// The known consequence: a call whose policy names a key that the newest set does not have gets
// Unavailable. That is a call under way when a key and the rules that name it are removed together, or
// one that begins between the commit of the keys and the rewriter's swap. Its caller tries again, and
// the next try uses the new policy.

const (
	// sourcesQuiet is how long the config file and the policy files must rest before they are read.
	sourcesQuiet = 200 * time.Millisecond
	// replaceTime is how long the config file may be away: editors and copy tools take a file away when
	// they replace it.
	replaceTime = 10 * time.Second
	// aliasInterval is how often keys are looked up although nothing has changed here: an alias may name another key.
	aliasInterval = 5 * time.Minute
)

// applier puts changed configs and policies into force. It prepares everything that the new state
// needs, and only then replaces the old one. What could not be applied is tried again when any source
// changes, on SIGHUP and every 30 seconds, so that files may arrive in any order.
type applier struct {
	flags    config.Flags
	started  *config.Config // by which everything runs that only a start takes over
	timeout  time.Duration  // for keys to answer
	keys     *keyring.Keyring
	engine   *policy.Engine
	rewriter *rewrite.Rewriter
	report   *report
	state    atomic.Pointer[state]

	dependencies *dependencies
	candidate    *candidate       // nil: no policy is on trial
	sampler      *rewrite.Sampler // nil: no survey of live traffic
	detector     *detect.Detector // of that survey

	mu        sync.Mutex // one change at a time
	text      []byte     // of the config file, when it was last read
	awaySince time.Time  // since when there is no config file
	asked     time.Time  // when the keys were last looked up
}

// open opens the keys and the policy of the started config, and notes them as the state in force.
// accounts is whether calls keep account of what they open. Keys that do not answer disable only what needs them. The caller
// closes the applier after an error too.
func (a *applier) open(ctx context.Context, t *telemetry, w *waits, admin *admin, accounts bool) (err error) {
	c := a.started
	if a.detector, err = SurveyDetector(c); err != nil {
		return err
	}
	if a.detector != nil {
		a.sampler = rewrite.NewSampler()
	}
	if err = makeLocalKeys(ctx, c, t.log); err != nil {
		return err
	}
	if a.keys, err = OpenKeys(ctx, c, KeyOptions{Timeout: a.timeout, Open: keyservice.Open, Replica: true, Log: t.log,
		Trace: newKMSWatch(t.registry).around, Asking: func(uri string) func() { return w.begin("key", uri) }}); err != nil {
		return err
	}
	if err = unusable(a.keys.Current()); err != nil {
		return err
	}
	others, missing, err := foreignReader(ctx, c, a.timeout)
	if err != nil {
		return err
	}
	admin.keys.Store(a.keys)
	if c.Policy.Bundle != nil {
		defer w.begin("policy bundle", c.Policy.Bundle.URL)()
	}
	if a.engine, err = newEngine(ctx, c, a.keys, t); err != nil {
		return err
	}
	a.candidate = newCandidate(ctx, c, a.keys, t)
	a.rewriter, err = rewrite.New(rewrite.Options{Keys: a.keys, Policy: a.engine, Foreign: others,
		UnknownFields: c.UnknownFields, Shadow: c.Shadow, Accounts: accounts, Trial: a.candidate.onTrial(), Sampler: a.sampler, Log: t.log})
	if err != nil {
		return err
	}
	now := &state{configured: configuredBy(c, others, missing), set: a.keys.Current(), policy: a.engine.Current()}
	a.state.Store(now)
	a.asked = time.Now()
	a.report = newReport(a, t)
	a.report.started(now)
	return nil
}

// worksNot says why no call that carries a payload can succeed; "" if some can.
func (a *applier) worksNot(now *state) string {
	switch {
	case now.noKey():
		return "no key answers"
	case a.dependencies.noUpstream():
		return "no upstream has answered yet"
	}
	return ""
}

// close removes the keys from memory.
func (a *applier) close() {
	if a.keys != nil {
		a.keys.Close()
	}
}

// follow applies every change until ctx ends.
func (a *applier) follow(ctx context.Context, log *slog.Logger) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	a.engine.Offer(func(ctx context.Context) error {
		a.apply(ctx, false)
		return a.engine.Current().Err()
	})
	defer a.engine.Close()
	changes := filewatch.Notify(ctx, a.sources(log))
	again := backoff.Backoff{First: firstRetry, Max: slowestRetry, Jitter: 0.1}
	for {
		var retry <-chan time.Time // of what does not answer, sooner at first than changes looks by itself
		if len(a.state.Load().unanswered()) == 0 {
			again.Reset()
		} else {
			retry = time.After(again.Next())
		}
		select {
		case <-retry:
			a.apply(ctx, false)
		case <-ctx.Done():
			return
		case <-hangups:
			a.apply(ctx, true)
		case <-changes:
			a.apply(ctx, false)
		}
	}
}

// sources are the files to watch.
func (a *applier) sources(log *slog.Logger) filewatch.Options {
	watch := filewatch.Options{Quiet: sourcesQuiet, Unwatched: func(folder string, err error) {
		switch {
		case folder == "": // none of the folders
			log.Warn("policy files cannot be watched, so they are read every half minute", "error", err)
		case a.flags.File != "" && folder == filepath.Dir(a.flags.File):
			log.Warn("the config's folder cannot be watched, so the file is read every half minute", "error", err)
		default:
			log.Warn("a policy folder cannot be watched, so it is read every half minute", "folder", folder, "error", err)
		}
	}}
	for _, file := range []string{a.flags.File, a.started.Policy.File} {
		if file != "" {
			watch.Files = append(watch.Files, file)
		}
	}
	if folder := a.started.Policy.Namespaces; folder != "" {
		watch.Folders = []string{folder}
	}
	return watch
}

// apply reads the sources and puts into force what can be. hangup is whether an operator has asked for
// it, so that the outcome is reported even if it is the same as before.
func (a *applier) apply(ctx context.Context, hangup bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.state.Load()
	text, unread := a.read(hangup)
	changed := hangup || !bytes.Equal(text, a.text)
	modules, err := a.engine.Read(ctx)
	if err != nil {
		return // ctx has ended
	}
	// Keys are looked at again too while some of them are not as the config has them: they may answer now.
	keysToo := changed || unread != nil || len(before.causes()) > 0 || time.Since(a.asked) > aliasInterval
	if !keysToo && before.policy.Err() == nil && modules.Revision() == before.policy.Revision() {
		return // nothing has changed, and everything is in force
	}
	a.text = text
	var now *state
	if keysToo {
		a.asked = time.Now()
		now = a.prepare(ctx, before, text, unread, modules)
	} else {
		now = a.preparePolicy(ctx, before, modules)
	}
	if !changed && sameCause(now.causes(), before.causes()) && now.policy.Same(before.policy) && !keyring.Moves(a.keys, now.set) {
		return // tried again, with the same outcome
	}
	moved := a.keys.Moved()
	a.commit(before, now)
	a.report.applied(before, now, changed)
	a.report.moved(moved, a.keys.Moved())
}

// read returns the text of the config file. While the file is away, that is the text read last.
func (a *applier) read(hangup bool) ([]byte, error) {
	text, err := a.flags.Read()
	if err == nil {
		a.awaySince = time.Time{}
		return text, nil
	}
	if a.awaySince.IsZero() {
		a.awaySince = time.Now()
	}
	if hangup || time.Since(a.awaySince) > replaceTime {
		return a.text, err
	}
	return a.text, nil
}

// commit puts a prepared state into force, which cannot fail. Keys come first: what the new policy
// names has to be there.
func (a *applier) commit(before, now *state) {
	if now.set != before.set {
		a.keys.Commit(now.set)
	} else if now.policy.Same(before.policy) {
		now.policy = before.policy // what it remembers is worth keeping
	}
	if now.policy != before.policy {
		a.engine.Commit(now.policy)
	}
	a.rewriter.Apply(rewrite.State{Keys: a.keys, Policy: now.policy, Foreign: now.foreign})
	a.state.Store(now)
}
