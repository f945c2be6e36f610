package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func record(i int) *Record {
	return &Record{
		Time: time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC), Caller: Caller{"jwt", "alice", "people"}, Namespace: "clinic", RPC: "GetWorkflowExecutionHistory",
		Workflow: Workflow{ID: fmt.Sprint("visit-", i), Run: "r1", Type: "Visit"}, Code: "OK", Policy: "abc", Trace: "0af7651916cd43dd8448eb211c80319c",
		Payloads: []rewrite.Handled{
			{Kind: "input", Namespace: "clinic", Key: "phi", Outcome: rewrite.Opened, Count: 2},
			{Kind: "memo", Namespace: "clinic", Key: "default", Outcome: rewrite.Denied, Count: 1}},
	}
}

// lines reads back what was written, each line as a record with no field that is unknown.
func lines(t *testing.T, text []byte) []Record {
	t.Helper()
	var all []Record
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		d := json.NewDecoder(bytes.NewReader(s.Bytes()))
		d.DisallowUnknownFields()
		var r Record
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%v in the line %q", err, s.Text())
		}
		all = append(all, r)
	}
	return all
}

func start(t *testing.T, o Options) *Log {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet()
	}
	l := New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if o.Sink != nil {
			_ = l.closeOnce(ctx)
		}
	})
	return l
}

// closeOnce closes a log that its test may have closed.
func (l *Log) closeOnce(ctx context.Context) error {
	select {
	case <-l.closing:
		return nil
	default:
		return l.Close(ctx)
	}
}

func openFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := OpenFile(path, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A record that cannot be made is logged as what happens to its call: with audit.required that is refused.
func TestRecordThatCannotBeMade(t *testing.T) {
	for _, required := range []bool{false, true} {
		var logged bytes.Buffer
		l := start(t, Options{Sink: openFile(t, filepath.Join(t.TempDir(), "audit.jsonl")), Required: required,
			Log: slog.New(slog.NewTextHandler(&logged, nil))})
		r := record(1)
		r.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // JSON has no such year
		if err := l.Write(t.Context(), r); errors.Is(err, ErrUnrecorded) != required {
			t.Errorf("required %v: %v", required, err)
		}
		if goesOn := strings.Contains(logged.String(), "calls go on"); goesOn == required || !strings.Contains(logged.String(), "audit records are dropped") {
			t.Errorf("required %v: logged %q", required, logged.String())
		}
	}
}

func TestRecordIsOneLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := start(t, Options{Sink: openFile(t, path)})
	r := record(1)
	r.Workflow.ID = "two\nlines \x00 \xff <\u2028>"
	r.Caller.Subject = strings.Repeat("é", maxText)
	if err := l.Write(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(text, []byte("\n")) != 1 || !bytes.HasSuffix(text, []byte("\n")) {
		t.Fatalf("not one line: %q", text)
	}
	got := lines(t, text)[0]
	if got.Workflow.ID != "two\nlines \x00 \ufffd <\u2028>" || len(got.Caller.Subject) > maxText+len("…") || got.Payloads[1] != r.Payloads[1] || !got.Time.Equal(r.Time) {
		t.Errorf("read back %+v", got)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// TestFormat fixes the names by which other programs read a record.
func TestFormat(t *testing.T) {
	n := newLine()
	if err := n.encode(record(7)); err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2030-01-02T03:04:05.006Z","caller":{"kind":"jwt","subject":"alice","listener":"people"},"namespace":"clinic",` +
		`"rpc":"GetWorkflowExecutionHistory","workflow":{"id":"visit-7","run":"r1","type":"Visit"},"payloads":[` +
		`{"kind":"input","sealed_in":"clinic","key":"phi","verdict":"opened","count":2},{"kind":"memo","sealed_in":"clinic","key":"default","verdict":"denied","count":1}],` +
		`"code":"OK","policy":"abc","trace_id":"0af7651916cd43dd8448eb211c80319c"}` + "\n"
	if got := n.text.String(); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestNilLogKeepsNothing(t *testing.T) {
	var l *Log
	if l.Write(t.Context(), record(1)) != nil || l.Ready() != nil || l.Close(t.Context()) != nil {
		t.Error("a log that is off refuses something")
	}
}

// TestBurst has many calls at once: none may wait, and each record is either in the file or counted.
func TestBurst(t *testing.T) {
	const calls, callers = 100_000, 50
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := start(t, Options{Sink: openFile(t, path)})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range calls / callers {
				if err := l.Write(context.Background(), record(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_ = l.Close(t.Context()) // reports dropped ones
	kept, dropped, _ := l.Counts()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := uint64(bytes.Count(text, []byte("\n"))); n != kept || kept+dropped != calls || kept < queued {
		t.Errorf("%d lines, %d kept and %d dropped of %d", n, kept, dropped, calls)
	}
	lines(t, text[:bytes.LastIndexByte(text[:min(len(text), 1<<20)], '\n')+1])
}

// sink is one that a test controls.
type sink struct {
	mu   sync.Mutex
	hang chan struct{} // Write waits until it is closed
	err  error
	text bytes.Buffer
}

func (s *sink) Write(ctx context.Context, batch [][]byte) (int, error) {
	s.mu.Lock()
	hang, err := s.hang, s.err
	s.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range batch {
		s.text.Write(l)
	}
	return len(batch), nil
}

func (s *sink) Close() error { return nil }

func (s *sink) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// TestHungSink: with a sink that hangs calls go on at once, the queue stays bounded, the rest is counted, and the end
// does not wait for ever.
func TestHungSink(t *testing.T) {
	l := start(t, Options{Sink: &sink{hang: make(chan struct{})}})
	for i := range 3 * queued {
		began := time.Now()
		if err := l.Write(t.Context(), record(i)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("one call took %v", took)
		}
	}
	if _, dropped, _ := l.Counts(); dropped < 2*queued-maxBatch || dropped > 2*queued {
		t.Errorf("%d dropped", dropped)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); err == nil {
		t.Error("nothing is said of the records that are lost")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // the rest is counted when the writer comes to it
		kept, dropped, _ := l.Counts()
		if kept == 0 && dropped == 3*queued {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d kept, %d dropped", kept, dropped)
		}
	}
}

// TestSinkThatHeedsNothing: one that hangs in the kernel does not keep the process from its end either.
func TestSinkThatHeedsNothing(t *testing.T) {
	l := start(t, Options{Sink: stuck{}})
	if err := l.Write(t.Context(), record(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); err == nil || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("%v", err)
	}
}

type stuck struct{}

func (stuck) Write(context.Context, [][]byte) (int, error) { select {} }
func (stuck) Close() error                                 { return nil }

// TestRequired: a call whose record is required is refused within the bound while records cannot be kept, is told so
// beforehand, and goes on once they can.
func TestRequired(t *testing.T) {
	s := &sink{}
	l := start(t, Options{Sink: s, Required: true, Wait: 50 * time.Millisecond})
	l.retry = 100 * time.Millisecond
	if err := l.Write(t.Context(), record(1)); err != nil || s.text.Len() == 0 {
		t.Fatalf("%v, kept %d bytes", err, s.text.Len())
	}
	s.set(errors.New("no space left"))
	began := time.Now()
	if err := l.Write(t.Context(), record(2)); !errors.Is(err, ErrUnrecorded) || time.Since(began) > time.Second {
		t.Fatalf("%v after %v", err, time.Since(began))
	}
	if err := l.Ready(); !errors.Is(err, ErrUnrecorded) {
		t.Errorf("ready: %v", err)
	}
	s.set(nil)
	for end := time.Now().Add(5 * time.Second); l.Ready() != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := l.Write(t.Context(), record(3)); err != nil {
		t.Errorf("after it went on: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	got := lines(t, s.text.Bytes())
	if len(got) != 2 || got[1].Workflow.ID != "visit-3" {
		t.Errorf("a refused call stands in the record: %+v", got)
	}
	if kept, dropped, refused := l.Counts(); kept != 2 || dropped != 0 || refused != 1 {
		t.Errorf("kept %d, dropped %d, refused %d", kept, dropped, refused)
	}
}

// TestRequiredAtOnce has calls share writes, and each of them is answered after its record was kept.
func TestRequiredAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := start(t, Options{Sink: openFile(t, path), Required: true, Wait: 10 * time.Second})
	var wg sync.WaitGroup
	for g := range 20 {
		wg.Go(func() {
			for i := range 50 {
				id := g*1000 + i
				if err := l.Write(t.Context(), record(id)); err != nil {
					t.Error(err)
					return
				}
				text, err := os.ReadFile(path)
				if err != nil || !bytes.Contains(text, fmt.Appendf(nil, `"visit-%d"`, id)) {
					t.Errorf("answered before record %d stood in the file (%v)", id, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if kept, _, _ := l.Counts(); kept != 1000 {
		t.Errorf("%d kept", kept)
	}
}

// TestRequiredHung: a sink that hangs is bounded too, before and after a call is let in.
func TestRequiredHung(t *testing.T) {
	s := &sink{hang: make(chan struct{})}
	l := start(t, Options{Sink: s, Required: true, Wait: 20 * time.Millisecond})
	if err := l.Write(t.Context(), record(1)); !errors.Is(err, ErrUnrecorded) {
		t.Fatal(err)
	}
	time.Sleep(25 * time.Millisecond)
	if err := l.Ready(); !errors.Is(err, ErrUnrecorded) {
		t.Errorf("ready: %v", err)
	}
	close(s.hang)
	for end := time.Now().Add(5 * time.Second); l.Ready() != nil && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if err := l.Ready(); err != nil {
		t.Error(err)
	}
}

func TestClosedLogDrops(t *testing.T) {
	for _, required := range []bool{false, true} {
		l := start(t, Options{Sink: &sink{}, Required: required, Wait: time.Second})
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), record(1)); (err != nil) != required {
			t.Errorf("required %v: %v", required, err)
		}
	}
}

// TestWriteAllocates is what a record costs the call that it is of.
func TestAllocations(t *testing.T) {
	s := &sink{hang: make(chan struct{})}
	l := start(t, Options{Sink: s})
	n := newLine()
	r := record(1)
	if got := testing.AllocsPerRun(1000, func() {
		if err := n.encode(r); err != nil {
			t.Fatal(err)
		}
	}); got > 1 {
		t.Errorf("%v allocations for a record's text", got)
	}
	close(s.hang)
	_ = l.Write(t.Context(), r)
}

func BenchmarkWrite(b *testing.B) {
	f, err := OpenFile(filepath.Join(b.TempDir(), "audit.jsonl"), quiet())
	if err != nil {
		b.Fatal(err)
	}
	l := New(Options{Sink: f, Log: quiet()})
	r := record(1)
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Write(b.Context(), r)
	}
	_ = l.Close(b.Context())
}

// TestQueuedBytesAreBounded: records of any length take a bounded part of the memory while the sink hangs. What does not fit is
// counted as dropped, or refused where records are required, and none is dropped once the sink takes them again.
func TestQueuedBytesAreBounded(t *testing.T) {
	long := record(1)
	for i := range 2000 {
		long.Payloads = append(long.Payloads, rewrite.Handled{Kind: "input", Namespace: fmt.Sprint("n", i), Key: "default", Outcome: rewrite.Failed, Count: 1})
	}
	for _, required := range []bool{false, true} {
		hung := make(chan struct{})
		l := start(t, Options{Sink: waits(hung), Required: required, Wait: time.Minute})
		var calls sync.WaitGroup
		for range 300 {
			calls.Go(func() { _ = l.Write(t.Context(), long) })
		}
		gone := func() uint64 { _, dropped, refused := l.Counts(); return dropped + refused }
		for deadline := time.Now().Add(10 * time.Second); gone() == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
		if n := l.bytes.Load(); gone() == 0 || n > queuedBytes+1<<20 || n < queuedBytes/2 {
			t.Errorf("required %v: %d bytes are queued, and %d are dropped or refused", required, n, gone())
		}
		close(hung)
		calls.Wait()
		for deadline := time.Now().Add(10 * time.Second); l.bytes.Load() > 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
		if kept, dropped, refused := l.Counts(); kept+dropped+refused != 300 || l.bytes.Load() != 0 {
			t.Errorf("required %v: %d kept, %d dropped, %d refused; %d bytes are left", required, kept, dropped, refused, l.bytes.Load())
		}
	}
}

// waits is a sink that takes nothing until it is closed.
type waits chan struct{}

func (w waits) Write(_ context.Context, lines [][]byte) (int, error) { <-w; return len(lines), nil }
func (w waits) Close() error                                         { return nil }
