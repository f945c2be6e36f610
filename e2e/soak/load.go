package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// job is one workflow, from the start that its client asks for to the result that it is given.
type job struct {
	id, kind, secret string
	n                int64
	client           client.Client
	tally            *tally

	began, ended time.Time
	known        bool // to the server, as far as its client learned
	err          error
	trouble      error // the last error after which the client tried again
}

// tally counts, and reports what failed.
type tally struct {
	tell func(format string, args ...any)

	mu       sync.Mutex
	jobs     []*job
	onServer int
	right    int
	failed   []*job
	retries  map[string]int // by code and text
}

func newTally(tell func(string, ...any)) *tally { return &tally{tell: tell, retries: map[string]int{}} }

func (t *tally) started(j *job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !j.known {
		j.known = true
		t.onServer++
	}
}

func (t *tally) ended(j *job, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	j.ended, j.err = time.Now(), err
	if err == nil {
		t.right++
	} else {
		t.failed = append(t.failed, j)
		t.tell("%s failed: %v", j.id, err)
	}
}

func (t *tally) retried(j *job, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retries[status.Code(toStatus(err)).String()]++
	if j != nil {
		j.trouble = err
	}
}

func (t *tally) counts() (started, right, failed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.onServer, t.right, len(t.failed)
}

// waitForMore waits until more jobs have ended, or stop is closed.
func (t *tally) waitForMore(ctx context.Context, more int, stop <-chan struct{}) {
	_, right, failed := t.counts()
	for goal := right + failed + more; right+failed < goal && ctx.Err() == nil; _, right, failed = t.counts() {
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// guard ends a load of which nothing has come for a long time: all of its jobs are stuck.
func (t *tally) guard(ctx context.Context, end func()) {
	seen, since := 0, time.Now()
	for ; ctx.Err() == nil; wait(ctx, time.Second) {
		if _, right, failed := t.counts(); right+failed > seen {
			seen, since = right+failed, time.Now()
		}
		if time.Since(since) > settleTime {
			t.tell("no workflow has ended for %s", settleTime)
			end()
			return
		}
	}
}

// trouble counts failures that clients recovered from.
func (t *tally) trouble() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for code, n := range t.retries {
		parts = append(parts, fmt.Sprintf("%s %d", code, n))
	}
	slices.Sort(parts)
	return cmp.Or(strings.Join(parts, ", "), "none")
}

// took gives the middle and the 99th percentile of how long jobs took.
func (t *tally) took() (p50, p99 time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []time.Duration
	for _, j := range t.jobs {
		if j.err == nil && !j.ended.IsZero() {
			all = append(all, j.ended.Sub(j.began))
		}
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100]
}

// load starts jobs, a bounded number at a time.
type load struct {
	kinds    []kind
	prefix   string
	canaries *harness.Canaries
	clients  []client.Client
	tally    *tally
	width    int           // jobs at a time
	limit    int           // jobs in all; 0: until stop
	pause    time.Duration // between two starts, for load that does not take all there is

	clientsAt, workersAt string // addresses; empty: the balancer's
}

// run starts jobs until it has started all of them, or stop is closed. ended is closed once each of them is over, or ctx is.
func (l *load) run(ctx context.Context, stop <-chan struct{}) (ended <-chan struct{}) {
	var deck []kind
	for _, k := range l.kinds {
		deck = append(deck, slices.Repeat([]kind{k}, k.weight)...)
	}
	slots := make(chan struct{}, l.width)
	var all sync.WaitGroup
	over := make(chan struct{})
	defer func() {
		go func() {
			all.Wait()
			close(over)
		}()
	}()
	tick := time.NewTicker(max(l.pause, time.Millisecond))
	defer tick.Stop()
	for i := 0; l.limit == 0 || i < l.limit; i++ {
		select {
		case <-stop:
			return over
		case <-ctx.Done():
			return over
		case slots <- struct{}{}:
		}
		k := deck[i*5%len(deck)] // 5 shuffles: no deck here has a multiple of it
		j := &job{id: fmt.Sprintf("%s-%s-%d", l.prefix, k.name, i), kind: k.name, n: int64(i)*7919 + 1, client: l.clients[i%len(l.clients)], tally: l.tally, began: time.Now()}
		j.secret = l.canaries.New(j.id)
		l.tally.mu.Lock()
		l.tally.jobs = append(l.tally.jobs, j)
		l.tally.mu.Unlock()
		all.Go(func() {
			defer func() { <-slots }()
			l.tally.ended(j, k.drive(j, ctx))
		})
		<-tick.C
	}
	return over
}

// errAgain is no error: what was asked for is not there yet.
var errAgain = errors.New("not yet")

// again makes a call with the job's header, until it is answered.
func (j *job) again(ctx context.Context, try func(context.Context) error) error {
	return persist(context.WithValue(ctx, secretKey{}, j.secret), j, try)
}

const tryTime = 40 * time.Second

// persist does what a client does that means it: errors that may pass are tried again, for as long as ctx lasts.
func persist(ctx context.Context, j *job, try func(context.Context) error) error {
	var last error
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, tryTime)
		err := try(attempt)
		cancel()
		if err == nil || !mayPass(err) {
			return err
		}
		if ctx.Err() == nil {
			last = err
			if j != nil && !errors.Is(err, errAgain) {
				j.tally.retried(j, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer until the end, the last was: %w", cmp.Or(last, err))
		case <-time.After(wait):
		}
	}
}

// mayPass reports whether the same call may succeed a moment later. What workflows and activities failed with does not.
func mayPass(err error) bool {
	var workflowFailed *temporal.WorkflowExecutionError
	var applicationFailed *temporal.ApplicationError
	switch {
	case errors.As(err, &workflowFailed), errors.As(err, &applicationFailed):
		return false
	case errors.Is(err, errAgain), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return true
	}
	switch status.Code(toStatus(err)) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted, codes.Aborted:
		return true
	}
	return false
}

// toStatus finds the gRPC status in an error of the SDK's.
func toStatus(err error) error {
	var service serviceerror.ServiceError
	switch {
	case errors.As(err, &service):
		return service.Status().Err()
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	return err
}

func isNotFound(err error) bool {
	var none *serviceerror.NotFound
	return errors.As(err, &none)
}
