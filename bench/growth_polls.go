package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
)

const (
	// heldQueue is the task queue whose polls the frontend holds until their callers leave.
	heldQueue = "held"
	// pollsPerConnection is that of a worker of moderate size.
	pollsPerConnection = 50
	// quiet is how long CPU is counted while nothing but polls is there.
	quiet = 3 * time.Second
)

// poller holds polls at a proxy.
type poller struct {
	address string
	conns   []*grpc.ClientConn
	cancel  context.CancelFunc
	ctx     context.Context
	polls   sync.WaitGroup
	failed  chan error
}

func newPoller(ctx context.Context, address string) *poller {
	p := &poller{address: address, failed: make(chan error, 1)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

func (p *poller) stop() {
	p.cancel()
	p.polls.Wait()
	for _, cc := range p.conns {
		_ = cc.Close()
	}
}

// failure is why a poll failed; nil: none has.
func (p *poller) failure() error {
	select {
	case err := <-p.failed:
		return err
	default:
		return nil
	}
}

// hold adds polls.
func (p *poller) hold(count int) error {
	request := &workflowservice.PollActivityTaskQueueRequest{Namespace: namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: heldQueue}}
	var cc *grpc.ClientConn
	for i := range count {
		if i%pollsPerConnection == 0 {
			var err error
			if cc, err = dial(p.address); err != nil {
				return err
			}
			p.conns = append(p.conns, cc)
		}
		mine := cc
		p.polls.Go(func() {
			for p.ctx.Err() == nil { // the proxy ends a poll before its own drain could cut it; a worker polls again
				err := mine.Invoke(p.ctx, service+"PollActivityTaskQueue", request, new(workflowservice.PollActivityTaskQueueResponse))
				if err != nil && p.ctx.Err() == nil {
					select {
					case p.failed <- fmt.Errorf("a poll failed: %w", err):
					default:
					}
					return
				}
			}
		})
	}
	return nil
}

// heldPolls measures one proxy, and the relay beside it, while more and more polls wait.
func heldPolls(ctx context.Context, g *growth, sizes []int) ([]curve, error) {
	query, err := newQuery(namespace, payload(newRand(), 1<<10))
	if err != nil {
		return nil, err
	}
	v, _, err := g.product(ctx, "polls", loaded{})
	if err != nil {
		return nil, err
	}
	defer v.stop()
	w := &work{name: "held polls", callers: 1, calls: []call{query}}
	contenders := []contender{{v, w}, {g.relay, w}}
	pollers := []*poller{newPoller(ctx, v.conns[0].Target()), newPoller(ctx, g.relay.conns[0].Target())}
	defer func() {
		for _, p := range pollers {
			p.stop()
		}
	}()
	var got beside
	idle := curve{what: "CPU of the polls alone", unit: "ms/s", sizes: sizes, most: linear, hidden: 5}
	kept := keptMemory(sizes)
	held := 0
	for _, n := range sizes {
		for _, p := range pollers {
			if err := p.hold(n - held); err != nil {
				return nil, err
			}
		}
		if err := v.front.awaitHeld(ctx, len(pollers)*n); err != nil {
			return nil, errors.Join(err, pollers[0].failure(), pollers[1].failure())
		}
		held = n
		turns, err := g.turns(ctx, contenders)
		if err != nil {
			return nil, err
		}
		got.proxy, got.relay = append(got.proxy, turns[0]), append(got.relay, turns[1])
		mb, err := v.kept(ctx)
		if err != nil {
			return nil, err
		}
		kept.values = append(kept.values, mb)
		time.Sleep(time.Second) // what the turns left behind is collected
		used, err := v.process.cpu()
		if err != nil {
			return nil, err
		}
		select {
		case <-time.After(quiet):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := errors.Join(pollers[0].failure(), pollers[1].failure()); err != nil {
			return nil, err
		}
		after, err := v.process.cpu()
		if err != nil {
			return nil, err
		}
		idle.values = append(idle.values, micros(after-used)/1000/quiet.Seconds())
	}
	curves := got.curves(sizes, flat, flat, unjudged)
	ofRelay := curve{what: "memory of the relay", unit: "MB", sizes: sizes}
	for i := range sizes {
		ofRelay.values = append(ofRelay.values, medianOf(got.relay[i], memoryOf))
	}
	return append(curves, kept, ofRelay, idle), nil
}
