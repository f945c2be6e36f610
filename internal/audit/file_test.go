package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRotation renames the file under the log, removes it, and has it truncated.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f := openFile(t, path)
	write := func(text string) {
		t.Helper()
		if n, err := f.Write(t.Context(), [][]byte{[]byte(text + "\n")}); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	holds := func(path, want string) {
		t.Helper()
		if text, err := os.ReadFile(path); string(text) != want || err != nil {
			t.Errorf("%s holds %q, want %q (%v)", filepath.Base(path), text, want, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	must(os.Rename(path, path+".1"))
	write("two")
	holds(path+".1", "one\n")
	holds(path, "two\n")
	must(os.Rename(path, path+".2"))
	must(os.WriteFile(path, nil, 0o600)) // as logrotate's `create`
	write("three")
	holds(path+".2", "two\n")
	holds(path, "three\n")
	must(os.Truncate(path, 0)) // as its `copytruncate`
	write("four")
	holds(path, "four\n")
	must(os.Remove(path))
	write("five")
	holds(path, "five\n")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	must(f.Close())
}

// TestLostFolder: where the new file cannot be made, that is an error, and it goes on once it can.
func TestLostFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := openFile(t, filepath.Join(dir, "audit.jsonl"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	one := [][]byte{[]byte("{}\n")}
	for range 2 {
		if n, err := f.Write(t.Context(), one); n != 0 || err == nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Write(t.Context(), one); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
}

func TestFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	l := start(t, Options{Sink: openFile(t, "/dev/full")})
	l.retry = 5 * time.Millisecond
	for i := range 2 * queued {
		if err := l.Write(t.Context(), record(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); err == nil {
		t.Error("nothing is said of the records that are lost")
	}
	if kept, dropped, _ := l.Counts(); kept != 0 || dropped != 2*queued {
		t.Errorf("%d kept, %d dropped", kept, dropped)
	}
}

// TestFullDisk fills a file system for real: the file holds whole lines only, and what could not be kept is kept as soon as
// there is room.
func TestFullDisk(t *testing.T) {
	const size = 64 << 10
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.Itoa(size)); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, size/2), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.jsonl")
	l := start(t, Options{Sink: openFile(t, path)})
	l.retry = 10 * time.Millisecond
	const n = 120 // some 50 KB
	for i := range n {
		if err := l.Write(t.Context(), record(i)); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(5 * time.Second); !l.failing.Load() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if !l.failing.Load() {
		t.Fatal("the disk did not fill")
	}
	time.Sleep(50 * time.Millisecond)
	text, err := os.ReadFile(path)
	for range 100 { // a line may be on its way, or on its way out
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasSuffix(text, []byte("\n")) {
			break
		}
		time.Sleep(3 * time.Millisecond)
		text, err = os.ReadFile(path)
	}
	if got := len(lines(t, text)); got == 0 || got >= n || !bytes.HasSuffix(text, []byte("\n")) {
		t.Errorf("%d lines on the full disk", got)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if text, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	got := lines(t, text)
	for i, r := range got {
		if r.Workflow.ID != "visit-"+strconv.Itoa(i) {
			t.Fatalf("line %d is of %s", i, r.Workflow.ID)
		}
	}
	if len(got) != n {
		t.Errorf("%d of %d records kept", len(got), n)
	}
}

// TestTornLine: what no truncating takes back, as on a pipe, ends before the next line begins.
func TestTornLine(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f := &File{path: Stdout, file: w, std: true}
	f.mend(5, 3) // two bytes of a line went out
	if !f.torn {
		t.Fatal("a torn line on a pipe counts as mended")
	}
	if n, err := f.Write(t.Context(), [][]byte{[]byte("{}\n")}); n != 1 || err != nil || f.torn {
		t.Fatalf("%d, %v, torn %v", n, err, f.torn)
	}
	_ = w.Close()
	got := make([]byte, 16)
	n, _ := r.Read(got)
	if string(got[:n]) != "\n{}\n" {
		t.Errorf("wrote %q", got[:n])
	}
}

func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe, filepath.Join(dir, "missing", "audit.jsonl")} {
		if _, err := OpenFile(path, quiet()); err == nil {
			t.Errorf("%s opens", path)
		}
	}
}

// TestKill: with records required, whatever was answered stands in the file, even if the process is killed right then.
func TestKill(t *testing.T) {
	if path := os.Getenv("AUDIT_TEST_KILLED"); path != "" {
		f, err := OpenFile(path, quiet())
		if err != nil {
			t.Fatal(err)
		}
		l := New(Options{Sink: f, Required: true, Wait: 10 * time.Second, Log: quiet()})
		for i := 0; ; i++ {
			if err := l.Write(context.Background(), record(i)); err != nil {
				t.Fatal(err)
			}
			_, _ = os.Stdout.WriteString(strconv.Itoa(i) + "\n") // the call's answer
		}
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_KILLED="+path)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var killed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &killed) {
		t.Fatalf("it ended by itself: %v %s", err, out.String())
	}
	answered := strings.Count(out.String(), "\n")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	recorded := bytes.Count(text, []byte("\n"))
	if answered == 0 || recorded < answered {
		t.Errorf("%d calls answered, %d recorded (%s)", answered, recorded, runtime.GOOS)
	}
}
