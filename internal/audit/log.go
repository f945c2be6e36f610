// Package audit records who had which payloads opened. It owns the form of a record, the queue between calls
// and the sink that stores records, and what happens when the sink fails. It never holds a payload, and
// bounds how long a call waits.
//
// Its words: a record is what one call had opened; the sink is where records go, a file or a collector; a record
// is required if its call must fail when it cannot be stored.
//
// What is where:
//
//   - record.go: the form of a record, and how it becomes a line of JSON
//   - log.go: the queue, and what happens when the sink fails
//   - file.go: the sink that appends to a file
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

// Sink stores records.
type Sink interface {
	// Write stores lines of JSON in their order, and returns how many of them it has stored. One goroutine
	// calls it.
	Write(ctx context.Context, lines [][]byte) (kept int, err error)
	Close() error
}

// Options are what a Log needs.
type Options struct {
	Sink Sink // required
	// Required refuses a call whose record cannot be stored. Otherwise the record is dropped and counted, and
	// the call goes on.
	Required bool
	// Wait bounds how long a call waits for a required record. 0: DefaultWait.
	Wait time.Duration
	Log  *slog.Logger // required
}

const (
	// DefaultWait is the bound for calls whose record is required.
	DefaultWait = time.Second

	queued = 16384 // records that wait for the sink, about 10 MB
	// queuedBytes is what they may take: what a record lists is up to callers. keptBuffer is the largest
	// buffer that is used again.
	queuedBytes = 16 << 20
	keptBuffer  = 64 << 10
	maxBatch    = 256 // records written at once
)

// ErrUnrecorded is the error of a call whose required record cannot be stored.
var ErrUnrecorded = errors.New("the audit record of this call cannot be written, and `audit.required` is set: nothing was opened for its caller; see the proxy's log for what is wrong with the place where records go")

// Log queues records and writes them to its sink. Its methods may be called concurrently. A nil *Log stores
// nothing, and lets every call go on.
type Log struct {
	options Options
	queue   chan *line
	lines   sync.Pool
	bytes   atomic.Int64 // of the lines that are queued or being written
	retry   time.Duration
	closing chan struct{}
	ended   chan struct{}
	giveUp  context.CancelFunc

	kept, dropped, refused atomic.Uint64
	failing                atomic.Bool
	since                  atomic.Int64 // when the sink began to write what it is writing now, in ns; 0: it is idle
	losses                 lograte.Limiter
}

// New starts a log. Close ends it.
func New(o Options) *Log {
	if o.Wait == 0 {
		o.Wait = DefaultWait
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Log{options: o, queue: make(chan *line, queued), retry: time.Second,
		closing: make(chan struct{}), ended: make(chan struct{}), giveUp: cancel}
	l.lines.New = func() any { return newLine() }
	go l.run(ctx)
	return l
}

// Write queues a record. Where records are required, it waits until this one is stored, and after an error
// the call must not be answered. The caller may use r again afterwards.
func (l *Log) Write(ctx context.Context, r *Record) error {
	if l == nil {
		return nil
	}
	n := l.lines.Get().(*line)
	if err := n.encode(r); err != nil {
		return l.lost(fmt.Errorf("a record cannot be written as JSON: %w", err))
	}
	n.state <- struct{}{}
	if size := int64(n.text.Len()); l.bytes.Add(size) > queuedBytes && l.bytes.Load() > size {
		l.giveBack(n)
		if l.options.Required {
			return l.refuse()
		}
		return l.lost(errFlood)
	}
	if l.options.Required {
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
	l.giveBack(n)
	return l.lost(errFlood)
}

// errFlood is why a record is dropped.
var errFlood = errors.New("records come faster than they can be kept")

// giveBack ends a line that no call waits for.
func (l *Log) giveBack(n *line) {
	l.bytes.Add(-int64(n.text.Len()))
	select {
	case <-n.state:
	default: // abandoned
	}
	if n.text.Cap() <= keptBuffer {
		l.lines.Put(n)
	}
}

// writeRequired waits for room in the queue and then until the record is stored, together no longer than the
// bound.
func (l *Log) writeRequired(ctx context.Context, n *line) error {
	ctx, cancel := context.WithTimeout(ctx, l.options.Wait)
	defer cancel()
	select {
	case l.queue <- n:
	case <-ctx.Done():
		return l.refuse()
	case <-l.ended:
		return l.refuse()
	}
	var err error
	select {
	case err = <-n.written:
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

// abandon leaves a line to the writer, unless its fate is decided already.
func (l *Log) abandon(n *line) error {
	select {
	case <-n.state:
		return ErrUnrecorded
	case err := <-n.written:
		return err
	}
}

// refuse counts a call that is refused because its required record is not stored.
func (l *Log) refuse() error {
	l.refused.Add(1)
	return ErrUnrecorded
}

// Ready returns ErrUnrecorded if a required record could not be stored now. A call that would fetch a task
// can be refused then, before the task is lost.
func (l *Log) Ready() error {
	if l == nil || !l.options.Required {
		return nil
	}
	since := l.since.Load()
	if l.failing.Load() || since != 0 && time.Now().UnixNano()-since > int64(l.options.Wait) {
		return ErrUnrecorded
	}
	return nil
}

// lost counts a dropped record, and logs that. Where records are required, its error has the call refused.
func (l *Log) lost(why error) error {
	total := l.dropped.Add(1)
	if l.losses.Allow("") {
		message := "audit records are dropped, calls go on; set audit.required to have them refused instead"
		if l.options.Required {
			message = "audit records are dropped, and their calls are refused"
		}
		l.options.Log.Error(message, "dropped_so_far", total, "error", why)
	}
	if l.options.Required {
		return ErrUnrecorded
	}
	return nil
}

// Counts returns the numbers of records stored, of records dropped, and of calls refused without one.
func (l *Log) Counts() (kept, dropped, refused uint64) {
	return l.kept.Load(), l.dropped.Load(), l.refused.Load()
}

// Failing reports whether the latest try to store records failed.
func (l *Log) Failing() bool { return l.failing.Load() }

// Close writes the queue and closes the sink. Records that are not stored when ctx ends are dropped and
// counted.
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
		if !l.settled() {
			return fmt.Errorf("audit: what keeps the records hangs; up to %d of the last ones are lost", len(l.queue)+maxBatch)
		}
	}
	if _, dropped, _ := l.Counts(); dropped > 0 {
		return fmt.Errorf("audit: %d records were dropped since the start", dropped)
	}
	return nil
}

// settled waits until each queued record is kept or dropped, and reports whether it came to that: a sink that hangs in the
// kernel does not heed its context, and is given up when nothing has moved for a while.
func (l *Log) settled() bool {
	const patience = 250 * time.Millisecond
	for moved := ^uint64(0); ; {
		select {
		case <-l.ended:
			return true
		case <-time.After(patience):
		}
		kept, dropped, refused := l.Counts()
		if moved == kept+dropped+refused {
			return false
		}
		moved = kept + dropped + refused
	}
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
		case <-l.closing:
			if len(l.queue) > 0 {
				continue // select chooses at random; the queue comes first
			}
			if err := l.options.Sink.Close(); err != nil {
				l.options.Log.Error("the audit log cannot be closed", "error", err)
			}
			return
		}
	}
}

// gather adds the lines that are queued already.
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

// keep writes a batch to the sink, again and again if it fails. Meanwhile the queue fills.
func (l *Log) keep(ctx context.Context, batch []*line, texts [][]byte) {
	for len(batch) > 0 {
		if ctx.Err() != nil { // given up: what is queued is only counted
			for _, n := range batch {
				l.drop(n)
			}
			break
		}
		texts = texts[:0]
		for _, n := range batch {
			texts = append(texts, n.text.Bytes())
		}
		l.since.Store(time.Now().UnixNano())
		kept, err := l.options.Sink.Write(ctx, texts)
		for _, n := range batch[:kept] {
			l.kept.Add(1)
			l.settle(n, nil)
		}
		batch = batch[kept:]
		if err == nil {
			if l.failing.CompareAndSwap(true, false) {
				l.options.Log.Info("audit records are kept again")
			}
			break
		}
		if !l.failing.Swap(true) {
			l.options.Log.Error("audit records cannot be kept; trying again every second", "required", l.options.Required, "error", err)
		}
		select {
		case <-time.After(l.retry):
		case <-ctx.Done():
			continue
		}
		if batch = l.withoutAbandoned(batch); len(batch) == 0 {
			l.failing.Store(false) // the next call tries anew
		}
	}
	l.since.Store(0)
}

// settle passes the outcome of a record to the call that waits for it, if one does.
func (l *Log) settle(n *line, err error) {
	if l.options.Required {
		select {
		case <-n.state:
			l.bytes.Add(-int64(n.text.Len()))
			n.written <- err // the waiting call has the line now; it is not used again
			return
		default: // abandoned
		}
	}
	l.giveBack(n)
}

// drop gives up a record that cannot be stored before the log closes.
func (l *Log) drop(n *line) {
	if !l.options.Required {
		_ = l.lost(context.Canceled) // counts it; no call waits for this record
	}
	l.settle(n, ErrUnrecorded)
}

// withoutAbandoned returns the batch without the records of calls that were refused meanwhile.
func (l *Log) withoutAbandoned(batch []*line) []*line {
	left := batch[:0]
	for _, n := range batch {
		select {
		case <-n.state:
			n.state <- struct{}{}
			left = append(left, n)
		default:
			l.giveBack(n)
		}
	}
	return left
}
