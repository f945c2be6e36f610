package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.temporal.io/api/workflowservice/v1"
)

// fault is something that goes wrong, or that an operator does, while the load runs. play returns once it is over.
type fault struct {
	name string
	play func(context.Context) error
}

// proxyKilled is a crash of a replica. It comes back on its own, once its KMS and the server answer.
func (s *site) proxyKilled(i int) fault {
	r := s.replicas[i]
	return fault{"kill -9 of proxy " + r.name, func(ctx context.Context) error {
		r.kill()
		wait(ctx, time.Second)
		return r.start(ctx)
	}}
}

func (s *site) serverKilled() fault {
	return fault{"kill -9 of the frontend", func(ctx context.Context) error { return s.killServer(ctx, time.Second) }}
}

func (s *site) kmsKilled(away time.Duration) fault {
	return fault{fmt.Sprintf("kill -9 of KMS, away for %s", away), func(ctx context.Context) error { return s.killKMS(ctx, away) }}
}

// faults are what happens during a soak, in turns. Replica A lives through all of it: what it holds on to is measured.
func (s *site) faults() []fault {
	policy := 0
	all := []fault{
		s.proxyKilled(1),
		{"another KMS key, by the config", s.rotateKey},
		s.serverKilled(),
		s.kmsKilled(5 * time.Second),
		{"another policy", func(ctx context.Context) error {
			policy++
			return s.swapPolicy(ctx, policies[policy%len(policies)])
		}},
		s.proxyKilled(2),
		{"KMS hangs for 5s", s.kmsHangs},
		{"new key material in KMS", s.rotateMaterial},
		{"proxy C killed while KMS is away", s.coldStart},
		{"SIGTERM to proxy B, and a new one", func(ctx context.Context) error { return s.replicas[1].restart(ctx) }},
		{"a policy that does not load", s.breakPolicy},
		{"frontend and proxy C killed at once", func(ctx context.Context) error { return together(ctx, s.serverKilled(), s.proxyKilled(2)) }},
		{"new data keys everywhere, and KMS away for 12s", s.strangers},
		{"another KMS key while KMS was just restarted", func(ctx context.Context) error {
			if err := s.killKMS(ctx, time.Second); err != nil {
				return err
			}
			return s.rotateKey(ctx)
		}},
	}
	if s.store == nil {
		return all
	}
	// Where there is a key store, it crashes by itself, before a replica starts, and while data keys change.
	return slices.Concat([]fault{
		s.store.killed(5 * time.Second),
		{"key store and proxy B killed at once", func(ctx context.Context) error { return together(ctx, s.store.killed(3*time.Second), s.proxyKilled(1)) }},
		{"another KMS key while the key store is away", func(ctx context.Context) error {
			return together(ctx, s.store.killed(8*time.Second), fault{"", s.rotateKey})
		}},
	}, all)
}

// crashes are kills of all parts, in turns.
func (s *site) crashes() []fault {
	var all []fault
	for i := range s.replicas {
		if s.store != nil {
			all = append(all, s.store.killed(time.Second))
		}
		all = append(all, s.proxyKilled(i), s.kmsKilled(time.Second), s.serverKilled())
	}
	return all
}

func (r *replica) restart(ctx context.Context) error {
	if err := r.terminate(); err != nil {
		return err
	}
	return r.start(ctx)
}

// kmsHangs stops KMS from answering while its connections stay.
func (s *site) kmsHangs(ctx context.Context) error {
	if err := syscall.Kill(s.kms.PID(), syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, 5*time.Second)
	return syscall.Kill(s.kms.PID(), syscall.SIGCONT)
}

// coldStart has a proxy start that holds no data key of anybody's, right after KMS is back.
func (s *site) coldStart(ctx context.Context) error {
	s.kms.Kill()
	s.replicas[2].kill()
	started := make(chan error, 1)
	go func() { started <- s.replicas[2].start(ctx) }()
	wait(ctx, 3*time.Second)
	if err := s.startKMS(ctx); err != nil {
		return err
	}
	return <-started
}

// strangers has every replica seal with a data key that no other one has opened yet, and then takes KMS away for longer
// than tasks can wait: they are set aside, and have to go on by themselves.
func (s *site) strangers(ctx context.Context) error {
	if err := s.rotateKey(ctx); err != nil {
		return err
	}
	if err := s.killKMS(ctx, 12*time.Second); err != nil {
		return err
	}
	// A proxy looks after what it paused as long as it lives, so none is killed before that.
	var paused int64
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); wait(ctx, time.Second) {
		answer, err := s.direct.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: "TemporalPauseInfo IS NOT NULL AND ExecutionStatus = 'Running'"})
		if err != nil {
			return err
		}
		if paused = answer.Count; paused == 0 || ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%d workflows still have activities that were paused, though KMS is back", paused)
}

func together(ctx context.Context, faults ...fault) error {
	failed := make(chan error, len(faults))
	var all sync.WaitGroup
	for _, f := range faults {
		all.Go(func() { failed <- f.play(ctx) })
	}
	all.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// play plays faults in turns until stop is closed, and reports each. What is under way then is played to its end.
func (s *soak) play(ctx context.Context, faults []fault, pause func(context.Context), stop <-chan struct{}) (played map[string]int, err error) {
	played = map[string]int{}
	for i := 0; ; i++ {
		pause(ctx)
		select {
		case <-stop:
			return played, nil
		case <-ctx.Done():
			return played, ctx.Err()
		default:
		}
		f := faults[i%len(faults)]
		began := time.Now()
		if err := f.play(ctx); err != nil {
			return played, fmt.Errorf("%s: %w", f.name, err)
		}
		played[f.name]++
		s.say("%s (%s)", f.name, time.Since(began).Round(100*time.Millisecond))
	}
}
