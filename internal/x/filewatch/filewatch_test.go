package filewatch_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace does what editors do.
func replace(t *testing.T, file, text string) {
	t.Helper()
	write(t, file+".new", text)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// link makes a link as ConfigMap volumes do, or swaps it.
func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func TestNotify(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "folder")
	volume := filepath.Join(base, "volume")
	for _, d := range []string{dir, volume, filepath.Join(volume, "..1"), filepath.Join(volume, "..2")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(volume, "..1", "config"), "1")
	write(t, filepath.Join(volume, "..2", "config"), "2")
	link(t, "..1", filepath.Join(volume, "..data"))
	link(t, "..data/config", filepath.Join(volume, "config"))
	link(t, filepath.Join(volume, "config"), filepath.Join(base, "config"))

	changes := filewatch.Notify(t.Context(), filewatch.Options{Files: []string{filepath.Join(base, "config")}, Folders: []string{dir},
		Quiet: 20 * time.Millisecond, Interval: time.Hour})
	expect := func(what string, want bool) {
		t.Helper()
		wait := 10 * time.Second
		if !want {
			wait = 200 * time.Millisecond
		}
		select {
		case <-changes:
			if !want {
				t.Errorf("%s: reported as a change", what)
			}
		case <-time.After(wait):
			if want {
				t.Errorf("%s: no change is reported", what)
			}
		}
	}
	expect("the start", true)
	expect("nothing", false)
	write(t, filepath.Join(dir, "a"), "1")
	expect("a new file in the folder", true)
	expect("after it", false)
	if err := os.Chmod(filepath.Join(dir, "a"), 0o640); err != nil {
		t.Fatal(err)
	}
	expect("only a mode", false)
	replace(t, filepath.Join(dir, "a"), "2")
	expect("a replaced file", true)
	link(t, "..2", filepath.Join(volume, "..data"))
	expect("a swapped volume", true)
}

func TestNotifyHasPatience(t *testing.T) {
	dir := t.TempDir()
	changes := filewatch.Notify(t.Context(), filewatch.Options{Folders: []string{dir}, Quiet: time.Minute, Patience: 100 * time.Millisecond, Interval: time.Hour})
	<-changes
	for stop := time.Now().Add(10 * time.Second); time.Now().Before(stop); time.Sleep(20 * time.Millisecond) {
		write(t, filepath.Join(dir, "busy"), "x")
		select {
		case <-changes:
			return
		default:
		}
	}
	t.Error("a folder that never rests is never reported")
}

func TestNotifyLooksWithoutEvents(t *testing.T) {
	dir := t.TempDir()
	var missing atomic.Value
	changes := filewatch.Notify(t.Context(), filewatch.Options{Files: []string{filepath.Join(dir, "file", "below")}, Interval: 50 * time.Millisecond,
		Unwatched: func(folder string, _ error) { missing.Store(folder) }})
	write(t, filepath.Join(dir, "file"), "no folder")
	for range 3 {
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatal("no look")
		}
	}
	if f := missing.Load(); f != nil && f != filepath.Join(dir, "file") {
		t.Errorf("%s is said to be unwatched", f)
	}
}

func TestValue(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "1")
	write(t, b, "2")
	errBad := errors.New("bad")
	v, err := filewatch.NewValue(slog.New(slog.NewTextHandler(&log, nil)), func(contents [][]byte) (string, error) {
		if string(contents[0]) == "bad" {
			return "", errBad
		}
		return string(bytes.Join(contents, []byte("+"))), nil
	}, a, b)
	if err != nil || v.Get() != "1+2" {
		t.Fatal(v, err)
	}
	expect := func(want, logged string) {
		t.Helper()
		time.Sleep(filewatch.Recheck + 10*time.Millisecond)
		log.Reset()
		if got := v.Get(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if !strings.Contains(log.String(), logged) || logged == "" && log.Len() > 0 {
			t.Errorf("logged: %s", log.String())
		}
	}
	old, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, b, "3")
	if v.Get() != "1+2" {
		t.Error("the files are looked at with every call")
	}
	if err := os.Chtimes(b, old.ModTime(), old.ModTime()); err != nil {
		t.Fatal(err)
	}
	expect("1+3", "files read again") // another file, of the same size and time
	expect("1+3", "")
	replace(t, a, "bad")
	expect("1+3", "cannot be used")
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	expect("1+3", "cannot be used")
	write(t, a, "4")
	expect("4+3", "files read again")
}

func TestNewValueFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	parse := func([][]byte) (int, error) { return 0, errors.New("bad") }
	if _, err := filewatch.NewValue(slog.Default(), parse, file); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	write(t, file, "")
	if _, err := filewatch.NewValue(slog.Default(), parse, file); err == nil || err.Error() != "bad" {
		t.Error(err)
	}
}
