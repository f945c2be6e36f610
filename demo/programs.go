package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
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
	list  []report
	read  sync.WaitGroup // until a program's output ends
}

// from returns a writer for one program's standard output. Its end, by close, ends the reading.
func (r *reports) from() io.WriteCloser {
	out, in := io.Pipe()
	r.read.Go(func() {
		defer io.Copy(io.Discard, out) // what is no report must not hold up the program
		for lines := json.NewDecoder(out); ; {
			var one report
			if lines.Decode(&one) != nil {
				return
			}
			r.mu.Lock()
			r.list = append(r.list, one)
			r.show(one)
			r.mu.Unlock()
		}
	})
	return in
}

func (r *reports) show(one report) {
	who, text := cyan, plain
	if one.Who == "client" {
		who = blue
	}
	if one.Attempt > 1 {
		one.What += fmt.Sprintf(" (attempt %d)", one.Attempt)
	}
	if strings.HasPrefix(one.Text, "fails: ") {
		text = red
	}
	r.s.row(cell{7, dim, since(r.began), 1}, cell{7, who, one.Who, 1}, cell{26, plain, one.What, 1}, cell{r.s.width - indent - 43, text, one.Text, 0})
}

const storyVariable = "CLINIC_STORY" // the data of the run, for the worker and the client

// startProgram starts this program again as the clinic's worker or client. It gets an address and its own data, nothing else.
func (st *stage) startProgram(which string, story []byte, r *reports) (*peers.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, which, st.proxy.Address)
	cmd.Env = append(os.Environ(), storyVariable+"="+string(story))
	out := r.from()
	cmd.Stdout = out
	p, err := peers.Start("the "+which, cmd, nil)
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.Done()
		out.Close()
	}()
	st.onClose(p)
	return p, nil
}

// runClinicPrograms lets the client admit the patient, and returns what both programs reported.
func (st *stage) runClinicPrograms(ctx context.Context, story clinic.Story) ([]report, error) {
	text, err := json.Marshal(story)
	if err != nil {
		return nil, err
	}
	r := &reports{s: st.s, began: time.Now()}
	worker, err := st.startProgram("worker", text, r)
	if err != nil {
		return nil, err
	}
	client, err := st.startProgram("client", text, r)
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
		r.read.Wait()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]report(nil), r.list...), nil
}
