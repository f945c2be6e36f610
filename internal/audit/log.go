// Package audit keeps record of who had what opened. It owns the form of a record, the queue between calls and the
// place where records are kept, and what happens when that place takes no more. It never holds a payload, and never lets a
// call wait longer than it was told.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// Sink is where records are kept.
type Sink interface {
	// Write keeps lines of JSON, in their order, and tells how many of them it has kept. It is called by one goroutine.
	Write(ctx context.Context, lines [][]byte) (kept int, err error)
	Close() error
}

// Options are what a Log is made of.
type Options struct {
	Sink Sink
	// Required has a call refused whose record cannot be kept. Else the record is dropped, counted, and the call goes on.
	Required bool
	// Wait is how long a call waits, at most, where its record is required. 0: DefaultWait.
	Wait time.Duration
	Log  *slog.Logger
}

const (
	// DefaultWait is the bound for calls whose record is required.
	DefaultWait = time.Second

	queued   = 16384 // records that wait for the sink; 10 MB of them as they mostly are
	maxBatch = 256   // records written at once
)

// ErrUnrecorded is why a call is refused whose record is required.
var ErrUnrecorded = errors.New("the audit record of this call cannot be written, and `audit.required` is set: nothing was opened for its caller; see the proxy's log for what is wrong with the place where records go")

// Log takes records. Its methods may be used by several goroutines. A nil *Log keeps none, and lets every call go on.
type Log struct {
	Options
	queue   chan *line
	lines   sync.Pool
	retry   time.Duration
	closing chan struct{}
	ended   chan struct{}
	giveUp  context.CancelFunc

	kept, dropped, refused atomic.Uint64
	failing                atomic.Bool
	since                  atomic.Int64 // when the sink was handed what it is writing now, in ns; 0: it is idle
	losses                 lograte.Limiter
}

// New starts a log. Close ends it.
func New(o Options) *Log {
	if o.Wait == 0 {
		o.Wait = DefaultWait
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Log{Options: o, queue: make(chan *line, queued), retry: time.Second, closing: make(chan struct{}), ended: make(chan struct{}), giveUp: cancel}
	l.lines.New = func() any { return newLine() }
	go l.run(ctx)
	return l
}

// Write puts a record on its way. Where records are required it waits until this one is kept, and an error means that
// the call must not be answered. r may be used again afterwards.
func (l *Log) Write(ctx context.Context, r *Record) error {
	if l == nil {
		return nil
	}
	n := l.lines.Get().(*line)
	if err := n.encode(r); err != nil {
		return l.lost(fmt.Errorf("a record cannot be written as JSON: %w", err))
	}
	n.state <- struct{}{}
	if l.Required {
		return l.writeRequired(ctx, n)
	}
	select {
	case <-l.closing:
	default:
		select {
		case l.queue <- n:
			return nil
		default:
		}
	}
	<-n.state
	l.lines.Put(n)
	return l.lost(errors.New("records come faster than they can be kept"))
}

// writeRequired waits for room in the queue and then for the record to be kept, together no longer than the bound.
func (l *Log) writeRequired(ctx context.Context, n *line) error {
	bound := time.NewTimer(l.Wait)
	defer bound.Stop()
	select {
	case l.queue <- n:
	case <-bound.C:
		return l.refuse()
	case <-ctx.Done():
		return l.refuse()
	case <-l.ended:
		return l.refuse()
	}
	var err error
	select {
	case err = <-n.written:
	case <-bound.C:
		err = l.abandon(n)
	case <-ctx.Done():
		err = l.abandon(n)
	case <-l.ended:
		err = l.abandon(n)
	}
	if err != nil {
		return l.refuse()
	}
	return nil
}

// abandon leaves a line to the writer, unless that has decided already what became of it.
func (l *Log) abandon(n *line) error {
	select {
	case <-n.state:
		return ErrUnrecorded
	case err := <-n.written:
		return err
	}
}

func (l *Log) refuse() error {
	l.refused.Add(1)
	return ErrUnrecorded
}

// Ready tells beforehand of a required record that could not be kept now: a task that is not fetched is not lost.
func (l *Log) Ready() error {
	if l == nil || !l.Required {
		return nil
	}
	since := l.since.Load()
	if l.failing.Load() || since != 0 && time.Now().UnixNano()-since > int64(l.Wait) {
		return ErrUnrecorded
	}
	return nil
}

// lost counts a record that is dropped, and logs that.
func (l *Log) lost(why error) error {
	total := l.dropped.Add(1)
	if l.losses.Allow("") {
		l.Log.Error("audit records are dropped, calls go on; set audit.required to have them refused instead", "dropped_so_far", total, "error", why)
	}
	if l.Required {
		return ErrUnrecorded
	}
	return nil
}

// Counts are the records that were kept, those that were dropped, and the calls that were refused for want of one.
func (l *Log) Counts() (kept, dropped, refused uint64) {
	return l.kept.Load(), l.dropped.Load(), l.refused.Load()
}

// Close keeps what is queued and closes the sink. What is not kept when ctx ends is dropped, and counted.
func (l *Log) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	close(l.closing)
	stop := context.AfterFunc(ctx, l.giveUp)
	defer stop()
	select {
	case <-l.ended:
	case <-ctx.Done():
		select { // a sink that heeds its context ends now; one that hangs in the kernel does not
		case <-l.ended:
		case <-time.After(100 * time.Millisecond):
			return fmt.Errorf("audit: what keeps the records hangs; up to %d of the last ones are lost", len(l.queue)+maxBatch)
		}
	}
	if _, dropped, _ := l.Counts(); dropped > 0 {
		return fmt.Errorf("audit: %d records were dropped since the start", dropped)
	}
	return nil
}

// run is the one goroutine that writes.
func (l *Log) run(ctx context.Context) {
	defer close(l.ended)
	defer l.giveUp()
	batch := make([]*line, 0, maxBatch)
	texts := make([][]byte, 0, maxBatch)
	for {
		select {
		case n := <-l.queue:
			batch = l.gather(append(batch[:0], n))
			l.keep(ctx, batch, texts)
			continue
		default:
		}
		select {
		case n := <-l.queue:
			batch = l.gather(append(batch[:0], n))
			l.keep(ctx, batch, texts)
		case <-l.closing:
			if len(l.queue) > 0 {
				continue
			}
			if err := l.Sink.Close(); err != nil {
				l.Log.Error("the audit log cannot be closed", "error", err)
			}
			return
		}
	}
}

// gather adds what waits already.
func (l *Log) gather(batch []*line) []*line {
	for len(batch) < maxBatch {
		select {
		case n := <-l.queue:
			batch = append(batch, n)
		default:
			return batch
		}
	}
	return batch
}

// keep has the sink write a batch, over and over if need be. Meanwhile the queue fills.
func (l *Log) keep(ctx context.Context, batch []*line, texts [][]byte) {
	for len(batch) > 0 {
		texts = texts[:0]
		for _, n := range batch {
			texts = append(texts, n.text.Bytes())
		}
		l.since.Store(time.Now().UnixNano())
		kept, err := l.Sink.Write(ctx, texts)
		for _, n := range batch[:kept] {
			l.kept.Add(1)
			l.settle(n, nil)
		}
		batch = batch[kept:]
		if err == nil {
			if l.failing.CompareAndSwap(true, false) {
				l.Log.Info("audit records are kept again")
			}
			break
		}
		if !l.failing.Swap(true) {
			l.Log.Error("audit records cannot be kept; trying again every second", "required", l.Required, "error", err)
		}
		select {
		case <-time.After(l.retry):
		case <-ctx.Done():
			for _, n := range batch {
				l.drop(n)
			}
			batch = nil
		}
		if batch = l.withoutAbandoned(batch); len(batch) == 0 {
			l.failing.Store(false) // the next call finds out
		}
	}
	l.since.Store(0)
}

// settle tells the call that waits, if one does, what became of its record.
func (l *Log) settle(n *line, err error) {
	select {
	case <-n.state:
		if l.Required {
			n.written <- err // the waiting call has the line now; it is not used again
			return
		}
	default: // abandoned
	}
	l.lines.Put(n)
}

func (l *Log) drop(n *line) {
	if !l.Required {
		_ = l.lost(context.Canceled) // only for the count: it is no call's concern any more
	}
	l.settle(n, ErrUnrecorded)
}

// withoutAbandoned leaves out the records of calls that were refused meanwhile.
func (l *Log) withoutAbandoned(batch []*line) []*line {
	left := batch[:0]
	for _, n := range batch {
		select {
		case <-n.state:
			n.state <- struct{}{}
			left = append(left, n)
		default:
			l.lines.Put(n)
		}
	}
	return left
}
