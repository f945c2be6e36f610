package filewatch

import (
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// Recheck is how often a Value looks at its files, at most.
const Recheck = time.Second

// Value is made from files, and made again when one of them changes. While the files cannot be used, the
// last good value stays. It is safe for concurrent use.
type Value[T any] struct {
	files []string
	parse func(contents [][]byte) (T, error)
	log   *slog.Logger

	failures lograte.Limiter // of lines about files that cannot be used

	mu      sync.Mutex
	checked time.Time
	seen    []fs.FileInfo // of the files that value was made from
	value   T
}

// NewValue reads the files for the first time. parse gets their contents in the same order.
func NewValue[T any](log *slog.Logger, parse func(contents [][]byte) (T, error), files ...string) (*Value[T], error) {
	v := &Value[T]{files: files, parse: parse, log: log, checked: time.Now()}
	var err error
	if v.seen, err = v.stat(); err != nil {
		return nil, err
	}
	v.value, err = v.read()
	return v, err
}

// Get returns the present value.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.checked) < Recheck {
		return v.value
	}
	v.checked = time.Now()
	now, err := v.stat()
	if err == nil {
		if slices.EqualFunc(now, v.seen, same) {
			return v.value
		}
		var next T
		if next, err = v.read(); err == nil {
			v.value, v.seen = next, now
			v.log.Info("files read again after a change", "files", strings.Join(v.files, ","))
			return v.value
		}
	}
	if v.failures.Allow(err.Error()) {
		v.log.Error("changed files cannot be used; going on with what they held before", "files", strings.Join(v.files, ","), "error", err)
	}
	return v.value
}

func (v *Value[T]) stat() ([]fs.FileInfo, error) { return each(v.files, os.Stat) }

func (v *Value[T]) read() (T, error) {
	contents, err := each(v.files, os.ReadFile)
	if err != nil {
		var none T
		return none, err
	}
	return v.parse(contents)
}

func each[T any](files []string, f func(string) (T, error)) ([]T, error) {
	all := make([]T, len(files))
	for i, name := range files {
		var err error
		if all[i], err = f(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}
