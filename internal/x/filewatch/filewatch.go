// Package filewatch notices when files change: Notify for what follows files all the time, Value for what
// is made from files and needed now and then. Both see through links, so that the swap of a Kubernetes
// ConfigMap or Secret is a change. It never decides whom a certificate or a token stands for.
//
// filewatch.go: Notify. value.go: Value. secrets.go: the values that listeners and upstreams need, such as
// certificates and tokens.
package filewatch

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options say what Notify follows.
type Options struct {
	Files   []string
	Folders []string // any file in them, not in folders below
	// Quiet is how long everything must rest before a change is reported, 100 ms by default: files are
	// often written in several steps, and several files at once.
	Quiet time.Duration
	// Patience bounds the wait for rest where something else keeps writing beside the files, 1 s by default.
	Patience time.Duration
	// Interval is how often to look without any event, 30 s by default: network file systems send none.
	Interval time.Duration
	// Unwatched, where set, is called when events of a folder may be missing, so that a change is noticed
	// after Interval at the latest. folder is empty if that holds for all of them.
	Unwatched func(folder string, err error)
}

// Notify sends whenever the files may have changed, until ctx ends, and once at the start, since they may
// have changed after the caller read them. A receiver compares what it reads with what it had.
func Notify(ctx context.Context, o Options) <-chan struct{} {
	o.Quiet = cmp.Or(o.Quiet, 100*time.Millisecond)
	o.Patience = cmp.Or(o.Patience, time.Second)
	o.Interval = cmp.Or(o.Interval, 30*time.Second)
	if o.Unwatched == nil {
		o.Unwatched = func(string, error) {}
	}
	changes := make(chan struct{}, 1) // a change that is not received yet stands for later ones too
	go o.run(ctx, changes)
	return changes
}

func (o *Options) run(ctx context.Context, changes chan<- struct{}) {
	var events <-chan fsnotify.Event
	var faults <-chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		o.Unwatched("", err)
	} else {
		defer func() { _ = w.Close() }()
		events, faults = w.Events, w.Errors
	}
	look := time.NewTicker(o.Interval)
	defer look.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	var since time.Time // of the first event that was not reported yet
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Op == fsnotify.Chmod {
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			rest.Reset(min(o.Quiet, max(0, o.Patience-time.Since(since))))
			continue
		case err := <-faults:
			o.Unwatched("", err)
		case <-look.C:
		case <-rest.C:
		}
		since = time.Time{}
		if w != nil {
			o.add(w)
		}
		select {
		case changes <- struct{}{}:
		default:
		}
	}
}

// add watches every folder in which a change may concern the files. Folders are watched rather than files,
// since editors, copy tools and ConfigMap volumes replace files instead of writing to them. A folder that
// is watched already stays so; one that does not exist yet, or not any more, is found by a later look.
func (o *Options) add(w *fsnotify.Watcher) {
	var folders []string
	for _, f := range o.Files {
		for _, hop := range hops(f) {
			folders = append(folders, filepath.Dir(hop))
		}
	}
	for _, f := range o.Folders {
		for _, hop := range hops(f) {
			folders = append(folders, hop, filepath.Dir(hop))
		}
	}
	for _, f := range folders {
		if err := w.Add(f); err != nil && !os.IsNotExist(err) {
			o.Unwatched(f, err)
		}
	}
}

// hops returns a path and each link that it leads through, so that the swap of any of them is seen.
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

// same reports whether two looks at a path found the same file with the same content, as far as its size
// and time tell.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
