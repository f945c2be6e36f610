package policy

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long sources must rest before they are read.
	quiet = 100 * time.Millisecond
	// patience bounds the wait for rest where something else keeps writing next to the policy.
	patience = time.Second
	// lookInterval finds what no event told: network file systems, and folders that were replaced.
	lookInterval = 30 * time.Second
)

// Watch follows the sources until ctx ends. It watches folders rather than files,
// since editors, copy tools and ConfigMap volumes replace files instead of writing
// to them; where the system cannot watch, it looks every half minute.
func (e *Engine) Watch(ctx context.Context) {
	if e.bundles != nil {
		<-ctx.Done()
		e.bundles.stop()
		return
	}
	events := make(<-chan fsnotify.Event)
	faults := make(<-chan error)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		e.log.Warn("policy files cannot be watched, so they are read every half minute", "error", err)
	} else {
		defer func() { _ = w.Close() }()
		events, faults = w.Events, w.Errors
	}
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	rest := time.NewTimer(0) // one look at once: something may have changed since the load
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-events:
			if ev.Op == fsnotify.Chmod {
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			rest.Reset(min(quiet, max(0, patience-time.Since(since))))
			continue
		case err := <-faults:
			e.log.Warn("watching the policy files failed, they are read again", "error", err)
		case <-look.C:
		case <-rest.C:
		}
		since = time.Time{}
		if w != nil {
			e.watchFolders(w)
		}
		_ = e.Reload(ctx) // Status, the log and OnReload tell
	}
}

// watchFolders watches every folder in which a change may mean another policy. Adding one
// that is watched already does nothing, and one that is gone is found by the next look.
func (e *Engine) watchFolders(w *fsnotify.Watcher) {
	var folders []string
	if e.opts.File != "" {
		for _, hop := range hops(e.opts.File) {
			folders = append(folders, filepath.Dir(hop))
		}
	}
	if e.opts.Namespaces != "" {
		for _, hop := range hops(e.opts.Namespaces) {
			folders = append(folders, hop, filepath.Dir(hop))
		}
	}
	for _, f := range folders {
		if err := w.Add(f); err != nil && !os.IsNotExist(err) {
			e.log.Warn("a policy folder cannot be watched, so it is read every half minute", "folder", f, "error", err)
		}
	}
}

// hops lists a path and each link that it leads through, so that the swap of any of
// them is seen.
func hops(path string) []string {
	const most = 16
	all := []string{path}
	for len(all) < most {
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
		all = append(all, path)
	}
	return all
}
