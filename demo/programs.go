package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// report is a line that the worker or the client printed.
type report struct {
	Who, What string
	Attempt   int
	Got       json.RawMessage
	Text      string
}

// reports collects the lines of both programs as they come, and shows them.
type reports struct {
	s     *screen
	began time.Time
	mu    sync.Mutex
	rest  map[string][]byte
	list  []report
}

// from returns a writer for one program's standard output.
func (r *reports) from(program string) *reportWriter { return &reportWriter{r, program} }

type reportWriter struct {
	r       *reports
	program string
}

func (w *reportWriter) Write(b []byte) (int, error) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	text := append(r.rest[w.program], b...)
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			r.rest[w.program] = text
			return len(b), nil
		}
		text = rest
		var one report
		if json.Unmarshal(line, &one) == nil {
			r.list = append(r.list, one)
			r.show(one)
		}
	}
}

func (r *reports) show(one report) {
	st := cyan
	if one.Who == "client" {
		st = blue
	}
	what := one.What
	if one.Attempt > 1 {
		what += fmt.Sprintf(" (attempt %d)", one.Attempt)
	}
	textStyle := plain
	if strings.HasPrefix(one.Text, "fails: ") {
		textStyle = red
	}
	const before = 8 + 8 + 27 // columns for time, program and what it did
	for i, text := range wrap(one.Text, r.s.width-3-before) {
		head := strings.Repeat(" ", before)
		if i == 0 {
			head = r.s.paint(dim, pad(short(time.Since(r.began)), 8)) + r.s.paint(st, pad(one.Who, 8)) + pad(cut(what, 26), 27)
		}
		r.s.line("   %s%s", head, r.s.paint(textStyle, text))
	}
}

func (r *reports) all() []report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]report(nil), r.list...)
}

// startProgram starts this program again as the clinic's worker or client. It gets an address and its own data, nothing else.
func (st *stage) startProgram(which string, story clinic.Story, r *reports, args ...string) (*peers.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(story)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(st.dir, "story.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{which, "--host-port", st.proxy.Address, "--story", file}, args...)...)
	cmd.Stdout = r.from(which)
	p, err := peers.Start(which, cmd, nil)
	if err != nil {
		return nil, err
	}
	st.onClose(p)
	return p, nil
}

// runClinicPrograms lets the client admit the patient, and returns what both programs reported.
func (st *stage) runClinicPrograms(ctx context.Context, workflowID string, story clinic.Story) ([]report, error) {
	r := &reports{s: st.s, began: time.Now(), rest: map[string][]byte{}}
	worker, err := st.startProgram("worker", story, r)
	if err != nil {
		return nil, err
	}
	client, err := st.startProgram("client", story, r, "--workflow-id", workflowID)
	if err != nil {
		return nil, err
	}
	st.s.note("Two processes of their own: worker (pid %d) and client (pid %d). Their only setting: HostPort %s.", worker.PID(), client.PID(), st.proxy.Address)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-client.Done():
	case <-worker.Done():
		return nil, fmt.Errorf("the worker ended early\n%s", worker.Output())
	case <-ctx.Done():
		return nil, fmt.Errorf("the workflow did not end: %w\n%s%s", ctx.Err(), worker.Output(), client.Output())
	}
	if err := client.Stop(); err != nil {
		return nil, err
	}
	if !st.ui {
		worker.Stop()
	}
	return r.all(), nil
}
