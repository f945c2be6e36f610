package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// profiled shows where the proxy's time goes beside the relay's, and where calls wait for each other.
type profiled struct {
	options
	sockets string // folder
	rows    int
}

// profileCommand is the subcommand. The proxy has to be built with pprof.go.
func profileCommand(ctx context.Context, args []string) error {
	p := new(profiled)
	flags := flag.NewFlagSet("bench profile", flag.ExitOnError)
	p.shared(flags)
	flags.StringVar(&p.proxy, "proxy", "bin/temporal-seal-profiled", "the proxy's binary, built so that it can be profiled")
	flags.StringVar(&p.variants, "variants", sealing, "which of its policies to profile, with commas between")
	flags.IntVar(&p.rows, "rows", 25, "how many functions to print")
	_ = flags.Parse(args) // it exits on an error
	p.turn = max(p.turn, 5*time.Second)
	if strings.Contains(p.variants, direct) || p.variants == "" {
		return errors.New("-variants names policies of the proxy")
	}
	var err error
	if p.sockets, err = os.MkdirTemp("", "bench-pprof-"); err != nil {
		return err
	}
	defer os.RemoveAll(p.sockets)
	if err := os.Setenv(pprofDir, p.sockets); err != nil { // for all processes that this one starts
		return err
	}
	mixed := mixedHistory()
	works, err := newWorks(p.options, mixed)
	if err != nil {
		return err
	}
	fix, err := localFixture(ctx, p.options, p.proxy, mixed)
	if err != nil {
		return err
	}
	field, err := startField(ctx, p.options, works, fix)
	if err != nil {
		return err
	}
	defer field.stop()
	for i := range works {
		relay, err := p.measure(ctx, field.variant(plain), &works[i])
		if err != nil {
			return err
		}
		for _, v := range field.variants {
			if !slices.Contains(strings.Split(p.variants, ","), v.name) || !v.takes(works[i].name) {
				continue
			}
			ours, err := p.measure(ctx, v, &works[i])
			if err != nil {
				return fmt.Errorf("%s: %s: %w", works[i].name, v.name, err)
			}
			p.print(os.Stdout, works[i].name, v.name, ours, relay)
		}
	}
	return nil
}

// taken is what a process did for a call of a work, in microseconds.
type taken struct {
	figures
	own   map[string]float64 // CPU of a function alone
	under map[string]float64 // CPU of a function and what it called
	locks map[string]float64 // waiting for a lock, by the function that held it
	waits map[string]float64 // being blocked in any way, by the function that waited
}

// measure profiles a process under load: a turn for its CPU, one for the locks that it waits for, and one for all other waiting.
func (p *profiled) measure(ctx context.Context, v *variant, w *work) (t taken, err error) {
	if _, err := v.turn(ctx, w, time.Second); err != nil {
		return t, err
	}
	var got *profile.Profile
	if t.figures, got, err = p.during(ctx, v, w, "profile"); err != nil {
		return t, err
	}
	t.own, t.under = byFunction(got, t.cpu)
	// Each in a turn of its own: noting every event slows calls down.
	if t.locks, err = p.waiting(ctx, v, w, "mutex", "/rates?mutex=1&block=0"); err != nil {
		return t, err
	}
	t.waits, err = p.waiting(ctx, v, w, "block", "/rates?mutex=0&block=1")
	return t, err
}

// waiting profiles what calls wait for.
func (p *profiled) waiting(ctx context.Context, v *variant, w *work, name, rates string) (map[string]float64, error) {
	if err := p.ask(ctx, v, rates, nil); err != nil {
		return nil, err
	}
	f, got, err := p.during(ctx, v, w, name)
	if err != nil {
		return nil, err
	}
	if err := p.ask(ctx, v, "/rates?mutex=0&block=0", nil); err != nil {
		return nil, err
	}
	return waited(got, f.rps*p.window().Seconds()), nil
}

// window is how long profiles are taken within a turn.
func (p *profiled) window() time.Duration { return (p.turn - time.Second).Truncate(time.Second) }

// during takes a profile while the work is done.
func (p *profiled) during(ctx context.Context, v *variant, w *work, name string) (f figures, got *profile.Profile, err error) {
	asked := make(chan error, 1)
	go func() {
		time.Sleep(300 * time.Millisecond) // all callers are at work
		asked <- p.ask(ctx, v, fmt.Sprintf("/debug/pprof/%s?seconds=%.0f", name, p.window().Seconds()), func(body io.Reader) (err error) {
			got, err = profile.Parse(body)
			return err
		})
	}()
	f, err = v.turn(ctx, w, p.turn)
	return f, got, errors.Join(err, <-asked)
}

func (p *profiled) ask(ctx context.Context, v *variant, path string, read func(io.Reader) error) error {
	socket := filepath.Join(p.sockets, strconv.Itoa(v.process.cmd.Process.Pid))
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://process"+path, nil)
	if err != nil {
		return err
	}
	a, err := client.Do(q)
	if err != nil {
		return fmt.Errorf("%s gives no profile; was it built by make bench-profile? %w", v.name, err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, a.Status)
	}
	if read == nil {
		return nil
	}
	return read(a.Body)
}

// byFunction shares the CPU of a call out to functions.
func byFunction(p *profile.Profile, cpu float64) (own, under map[string]float64) {
	own, under = map[string]float64{}, map[string]float64{}
	total := 0.0
	at := len(p.SampleType) - 1 // the last is in nanoseconds
	for _, s := range p.Sample {
		total += float64(s.Value[at])
	}
	for _, s := range p.Sample {
		share := float64(s.Value[at]) / total * cpu
		seen := map[string]bool{}
		for i, name := range frames(s) {
			if i == 0 {
				own[name] += share
			}
			if !seen[name] {
				under[name] += share
			}
			seen[name] = true
		}
	}
	return own, under
}

// waited sums up a profile of waiting by the function that is not of the runtime's own, per call, in microseconds.
func waited(p *profile.Profile, calls float64) map[string]float64 {
	out := map[string]float64{}
	at := len(p.SampleType) - 1
	for _, s := range p.Sample {
		names := frames(s)
		if len(names) == 0 {
			continue
		}
		i := slices.IndexFunc(names, func(name string) bool {
			return !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "sync.") && !strings.HasPrefix(name, "internal/")
		})
		name := names[len(names)-1]
		if i >= 0 {
			name = names[i]
		}
		how := names[0]
		out[name+" ("+how+")"] += float64(s.Value[at]) / 1000 / calls
	}
	return out
}

// frames returns a sample's functions, the innermost first.
func frames(s *profile.Sample) (names []string) {
	for _, l := range s.Location {
		for _, line := range l.Line {
			names = append(names, line.Function.Name)
		}
	}
	return names
}

func (p *profiled) print(w io.Writer, work, variant string, ours, relay taken) {
	fmt.Fprintf(w, "profile %s %s: %.1f us of CPU per call, the relay %.1f; p50 %.0f us, the relay %.0f\n", work, variant, ours.cpu, relay.cpu,
		ours.p50, relay.p50)
	p.part(w, "CPU of a function alone", ours.own, relay.own)
	p.part(w, "CPU of a function and what it calls", ours.under, relay.under)
	p.part(w, "waiting for a lock, by the function that held it (and how)", ours.locks, relay.locks)
	p.part(w, "blocked, by the function that waited (and in what)", ours.waits, relay.waits)
	fmt.Fprintf(w, "profile %s %s: waiting for locks: %.2f us per call, of them %.2f for those of gRPC and the runtime; the relay %.2f\n\n", work, variant,
		sum(ours.locks, ""), sum(ours.locks, "google.golang.org/grpc")+sum(ours.locks, "runtime."), sum(relay.locks, ""))
}

// part prints what differs most, the largest difference first.
func (p *profiled) part(w io.Writer, title string, ours, relay map[string]float64) {
	fmt.Fprintf(w, "%s, us per call:\n%10s %10s %10s\n", title, "difference", "proxy", "relay")
	names := make([]string, 0, len(ours))
	for name := range ours {
		names = append(names, name)
	}
	for name := range relay {
		if _, ok := ours[name]; !ok {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(ours[b]-relay[b], ours[a]-relay[a]) })
	for _, name := range names[:min(p.rows, len(names))] {
		fmt.Fprintf(w, "%10.2f %10.2f %10.2f  %s\n", ours[name]-relay[name], ours[name], relay[name], name)
	}
}

// sum adds up the functions whose names start so.
func sum(of map[string]float64, prefix string) (total float64) {
	for name, v := range of {
		if strings.HasPrefix(name, prefix) {
			total += v
		}
	}
	return total
}
