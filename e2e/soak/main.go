// Command soak runs the built proxy under a mixed load of the Go SDK on a real Temporal server, while parts are killed,
// restarted and reconfigured, and checks that every workflow ends with the result that it should have.
//
//	soak [-minutes 10]               everything: kills, outages, rotations, reloads; and what the proxy holds on to
//	soak kills [-workflows 2000]     kill -9 of proxy, KMS and frontend in turns
//	soak rolling [-workflows 560]    replicas are restarted one by one; beside the same load without that
//	soak beside [-workflows 400] -old PATH
//	                                 two replicas, one of which is an older build: each opens what the other one sealed
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// settleTime is how long workflows get to end after the last fault: a lost task waits for its timeouts first.
const settleTime = 3 * time.Minute

// soak is one run of this command.
type soak struct {
	*site
	canaries *harness.Canaries
	began    time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	mode := "soak"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		mode, args = args[0], args[1:]
	}
	f := flag.NewFlagSet("soak "+mode, flag.ContinueOnError)
	var p plan
	f.StringVar(&p.kmsBinary, "kmsstub", "", "`path` of the built e2e/cmd/kmsstub")
	f.StringVar(&p.store, "store", "", "`postgres` for envelopes by reference to a key store there, which is killed too (default: none)")
	width := f.Int("width", 32, "`workflows` at a time")
	f.Func("kinds", "`names` of the only kinds of workflows to run, separated by commas", keepKinds)
	var minutes float64
	var workflows int
	modes := map[string]func(*soak, context.Context) error{
		"soak": func(s *soak, ctx context.Context) error {
			return s.everything(ctx, time.Duration(minutes*float64(time.Minute)), *width)
		},
		"kills":   func(s *soak, ctx context.Context) error { return s.kills(ctx, workflows, *width) },
		"rolling": func(s *soak, ctx context.Context) error { return s.rolling(ctx, workflows, *width) },
		"beside":  func(s *soak, ctx context.Context) error { return s.beside(ctx, workflows, *width) },
	}
	p.replicas = 3
	switch mode {
	case "soak":
		f.Float64Var(&minutes, "minutes", 10, "how long load and faults go on")
	case "kills":
		f.IntVar(&workflows, "workflows", 2000, "how many workflows")
	case "rolling":
		f.IntVar(&workflows, "workflows", 560, "how many workflows, once without a restart and once with")
		p.replicas = 2
	case "beside":
		f.IntVar(&workflows, "workflows", 400, "how many workflows at least, in four phases")
		f.StringVar(&p.old, "old", "", "`path` of the older proxy")
		p.replicas = 2
	default:
		return fmt.Errorf("%q is none of: kills, rolling, beside, or nothing for the whole soak", mode)
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	if p.store != "" && p.store != "postgres" {
		return fmt.Errorf("-store %s: write postgres, or leave it out", p.store)
	}
	if mode == "beside" && p.old == "" {
		return errors.New("beside needs -old, the path of the older proxy")
	}
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &soak{canaries: harness.NewCanaries(), began: time.Now()}
	defer harness.RemoveProxy()
	if s.site, err = start(ctx, dir, p); err != nil {
		if s.site != nil {
			s.site.stop()
		}
		return fmt.Errorf("start: %w", err)
	}
	defer s.site.stop()
	if err := makeEndpoint(ctx, s.direct); err != nil {
		return err
	}
	return modes[mode](s, ctx)
}

// say prints a line with the time since the start.
func (s *soak) say(format string, args ...any) {
	fmt.Printf("%7s  %s\n", time.Since(s.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// everything is the whole soak.
func (s *soak) everything(ctx context.Context, duration time.Duration, width int) error {
	if err := s.storeControl(ctx); err != nil {
		return err
	}
	// The first load fills pools and caches: what a proxy holds after it, it may hold at the end.
	warm := newTally(s.say)
	if err := s.load(ctx, &load{kinds: kinds, prefix: "warm", tally: warm, width: width, limit: 6 * width}, nothing); err != nil {
		return err
	}
	s.explain(ctx, s.direct, warm)
	begin, err := s.replicas[0].quiet(ctx)
	if err != nil {
		return err
	}
	s.say("at the beginning proxy A holds %s", begin)

	all := newTally(s.say)
	stop := make(chan struct{})
	time.AfterFunc(duration, func() { close(stop) })
	err = s.load(ctx, &load{kinds: kinds, prefix: "soak", tally: all, width: width}, func(ctx context.Context, _ <-chan struct{}) error {
		_, err := s.play(ctx, s.faults(), func(ctx context.Context) { wait(ctx, 4*time.Second) }, stop)
		return err
	})
	if err != nil {
		return err
	}
	end, err := s.replicas[0].quiet(ctx)
	if err != nil {
		return err
	}
	s.say("at the end proxy A holds %s", end)
	began := time.Now()
	if end, err = s.replicas[0].givesBack(ctx, end, begin.resident+residentSlack); err != nil {
		return err
	}
	if took := time.Since(began); took > time.Second {
		s.say("%s later it holds %s", took.Round(time.Second), end)
	}
	s.say("clients tried again after: %s", all.trouble())
	errs := []error{s.nothingLeft(ctx), s.complaints(), s.storeComplete(ctx)}
	s.explain(ctx, s.direct, all)
	s.server.Kill() // so that its write-ahead log stays as it is
	found, err := s.sweep()
	v := all.verdict()
	w := warm.verdict()
	v = verdict{v.started + w.started, v.right + w.right, v.wrong + w.wrong, v.lost + w.lost}
	levels := "level"
	if what := s.risen(begin, end); len(what) > 0 {
		levels = "NOT level"
		errs = append(errs, errors.New(strings.Join(what, "; ")))
	}
	if found > 0 {
		errs = append(errs, fmt.Errorf("%d secrets were stored or logged in clear", found))
	}
	fmt.Printf("%s; canaries: %d found; goroutines %d to %d, fds %d to %d and memory %.1f to %.1f MB: %s\n", v, found,
		begin.goroutines, end.goroutines, begin.fds, end.fds, megabytes(begin.heap), megabytes(end.heap), levels)
	return errors.Join(append(errs, err, v.err())...)
}

// killEvery is how many workflows end between two kills, so that a slow machine gets on as well.
const killEvery = 25

// kills are crashes alone.
func (s *soak) kills(ctx context.Context, workflows, width int) error {
	all := newTally(s.say)
	played := map[string]int{}
	err := s.load(ctx, &load{kinds: kinds, prefix: "kills", tally: all, width: width, limit: workflows}, func(ctx context.Context, begun <-chan struct{}) error {
		var err error
		played, err = s.play(ctx, s.crashes(), func(ctx context.Context) { all.waitForMore(ctx, killEvery, begun) }, begun)
		return err
	})
	if err != nil {
		return err
	}
	s.say("clients tried again after: %s", all.trouble())
	errs := []error{s.nothingLeft(ctx), s.complaints(), s.storeComplete(ctx)}
	s.explain(ctx, s.direct, all)
	v := all.verdict()
	byPart := map[string]int{}
	for name, n := range played {
		for _, part := range []string{"proxy", "KMS", "frontend", "key store"} {
			if strings.Contains(name, part) {
				byPart[part] += n
			}
		}
	}
	store := ""
	if s.store != nil {
		store = fmt.Sprintf(", key store %d", byPart["key store"])
	}
	fmt.Printf("%s; killed and restarted: proxy %d times, KMS %d, frontend %d%s\n", v, byPart["proxy"], byPart["KMS"], byPart["frontend"], store)
	if v.started != workflows {
		errs = append(errs, fmt.Errorf("%d workflows were to be started", workflows))
	}
	return errors.Join(append(errs, v.err())...)
}

// rolling restarts the replicas one by one.
func (s *soak) rolling(ctx context.Context, workflows, width int) error {
	const pause = 125 * time.Millisecond
	var late [2]lateness
	var errs []error
	for i, name := range []string{"without a restart", "rolling restart"} {
		all, since := newTally(s.say), time.Now()
		err := s.load(ctx, &load{kinds: planKinds, prefix: fmt.Sprint("rolling-", i), tally: all, width: width, limit: workflows, pause: pause}, func(ctx context.Context, begun <-chan struct{}) error {
			if i == 0 {
				return nil
			}
			wait(ctx, 3*time.Second)
			for _, r := range s.replicas {
				began := time.Now()
				if err := r.restart(ctx); err != nil {
					return err
				}
				s.say("SIGTERM to proxy %s, and a new one (%s)", r.name, time.Since(began).Round(100*time.Millisecond))
				wait(ctx, 2*time.Second)
			}
			select {
			case <-begun:
				return errors.New("the load was over before the restarts were: give it more -workflows")
			default:
				return nil
			}
		})
		if err != nil {
			return err
		}
		errs = append(errs, s.nothingLeft(ctx))
		s.explain(ctx, s.direct, all)
		if late[i], err = look(ctx, s.direct, since); err != nil {
			return err
		}
		v := all.verdict()
		errs = append(errs, v.err())
		p50, p99 := all.took()
		fmt.Printf("%-17s: %s; %s; clients tried again after: %s; p50 %s, p99 %s\n", name, v, late[i], all.trouble(), p50.Round(time.Millisecond), p99.Round(time.Millisecond))
	}
	// A machine with too much to do loses some by itself, with and without restarts. One that does not, has to lose none.
	if late[1].lost() > 2*late[0].lost() {
		errs = append(errs, errors.New("tasks were lost by the restarts, and waited for a timeout"))
	}
	return errors.Join(append(errs, s.complaints())...)
}

// load runs a load, and what happens beside it, until both have ended. Workers and clients come for it and go after it.
// beside ends when the last job was started; a load without a limit ends with it.
func (s *soak) load(ctx context.Context, l *load, beside func(ctx context.Context, begun <-chan struct{}) error) error {
	balanced := s.balancer.address()
	crew, err := muster(ctx, cmp.Or(l.clientsAt, balanced), cmp.Or(l.workersAt, balanced))
	if err != nil {
		return err
	}
	defer crew.dismiss()
	l.clients, l.canaries = crew.clients, s.canaries
	interrupted := ctx
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { s.progress(ctx, l.tally) })
	all.Go(func() { l.tally.guard(ctx, cancel) })
	stop, begun, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		err := beside(ctx, begun)
		if l.limit == 0 || err != nil {
			close(stop)
		}
		over <- err
	}()
	ended := l.run(ctx, stop)
	close(begun)
	if err := <-over; err != nil && ctx.Err() == nil {
		cancel()
		<-ended
		return err
	}
	select {
	case <-ended:
	case <-time.After(settleTime):
		cancel()
		<-ended
	}
	return interrupted.Err()
}

// nothing happens beside the load.
func nothing(context.Context, <-chan struct{}) error { return nil }

// progress prints counts from time to time.
func (s *soak) progress(ctx context.Context, t *tally) {
	every := time.Minute
	if info, err := os.Stdout.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		every = 15 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			started, right, failed := t.counts()
			s.say("%d started, %d right, %d under way, %d failed", started, right, max(started-right-failed, 0), failed)
		}
	}
}

// nothingLeft checks that nothing runs any more that nobody waited for.
func (s *soak) nothingLeft(ctx context.Context) error {
	for _, space := range []string{namespace, handlerSpace} {
		ids, err := leftOver(ctx, s.direct, space)
		if err != nil {
			return err
		}
		if len(ids) > 0 {
			return fmt.Errorf("still running in %s: %s", space, strings.Join(ids, ", "))
		}
	}
	return nil
}

// storeControl starts the workflow whose secret is to be found.
func (s *soak) storeControl(ctx context.Context) error {
	secret := s.canaries.New(controlID)
	_, err := s.direct.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: controlID, TaskQueue: "nobody"}, "Plain", doc{Secret: secret})
	return err
}
