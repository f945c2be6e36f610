package app

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

const (
	// reloadQuiet is how long the config file must rest before it is read.
	reloadQuiet = 200 * time.Millisecond
	// reloadLook finds changes that no event told of, as on network file systems and where a link's target was replaced.
	reloadLook = 30 * time.Second
)

// reloader takes up keys, grants, revoked data keys and other tools' formats from a changed config file without a restart.
type reloader struct {
	settings config.Flags
	text     []byte // of the config file, when it was last read
	keys     *keyring.Keyring
	policy   *policy.Engine
	rewriter *rewrite.Rewriter
	timeout  time.Duration
	outcome  *prometheus.CounterVec
	log      *slog.Logger

	started *config.Config // what everything else runs on
}

func (o *Options) newReloader(started *config.Config, text []byte, keys *keyring.Keyring, engine *policy.Engine, rewriter *rewrite.Rewriter, registry prometheus.Registerer, log *slog.Logger) *reloader {
	r := &reloader{settings: o.Flags, text: text, keys: keys, policy: engine, rewriter: rewriter, timeout: o.StartTimeout, started: started, log: log,
		outcome: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "temporal_seal_config_reloads_total",
			Help: "Attempts to take up keys, grants and revoked data keys from the config, by outcome."}, []string{"outcome"})}
	registry.MustRegister(r.outcome)
	for _, outcome := range []string{"ok", "error"} {
		r.outcome.WithLabelValues(outcome)
	}
	return r
}

// watch reloads at each SIGHUP, and whenever the config file has changed, until ctx ends. The folder is watched: editors
// and ConfigMap volumes replace files instead of writing to them.
func (r *reloader) watch(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	events := make(<-chan fsnotify.Event)
	if r.settings.File != "" {
		if w, err := fsnotify.NewWatcher(); err == nil {
			defer func() { _ = w.Close() }()
			if err := w.Add(filepath.Dir(r.settings.File)); err != nil {
				r.log.Warn("the config's folder cannot be watched, so the file is read every half minute", "error", err)
			}
			events = w.Events
		}
	}
	look := time.NewTicker(reloadLook)
	defer look.Stop()
	rest := time.NewTimer(0) // it may have changed since the start
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			r.reload(ctx)
		case <-events:
			rest.Reset(reloadQuiet)
		case <-rest.C:
			r.ifChanged(ctx)
		case <-look.C:
			r.ifChanged(ctx)
		}
	}
}

// ifChanged reloads if the file does not hold what it held at the last look.
func (r *reloader) ifChanged(ctx context.Context) {
	if r.settings.File == "" {
		return
	}
	text, err := r.settings.Read()
	if err != nil || bytes.Equal(text, r.text) {
		return // a file that is away for a moment is being replaced
	}
	r.reload(ctx)
}

// reload takes up all that can be, or nothing.
func (r *reloader) reload(ctx context.Context) {
	if err := r.take(ctx); err != nil {
		r.outcome.WithLabelValues("error").Inc()
		r.log.Error("the changed config is refused, the keys and grants before it stay in force", "error", err)
		return
	}
	r.outcome.WithLabelValues("ok").Inc()
}

func (r *reloader) take(ctx context.Context) error {
	text, err := r.settings.Read()
	if err != nil {
		return err
	}
	r.text = text
	c, err := r.settings.Parse(text)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	others, err := ForeignReader(ctx, c, r.timeout)
	if err != nil {
		return err
	}
	if err := r.keys.Reload(ctx, c.KeyConfigs(), c.KeyGrants(), c.DataKeyIDs()); err != nil {
		return PrefixLines("keys", err)
	}
	if err := r.policy.KeysChanged(ctx); err != nil {
		return PrefixLines("policy", err)
	}
	r.rewriter.ReadForeign(others)
	r.log.Info("keys and grants taken from the config", "keys", len(c.Keys), "grants", len(c.Grants), "revoked_data_keys", len(c.RevokedDataKeys))
	if !r.sameRest(c) {
		r.log.Warn("the config has changed in more than keys, grants, revoked_data_keys and foreign: that takes effect at the next start", "file", r.settings.File)
	}
	return nil
}

// sameRest compares what only a start takes up.
func (r *reloader) sameRest(now *config.Config) bool {
	before := *r.started
	before.Keys, before.Grants, before.RevokedDataKeys, before.Foreign = now.Keys, now.Grants, now.RevokedDataKeys, now.Foreign
	return reflect.DeepEqual(&before, now)
}
