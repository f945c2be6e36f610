package server

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// gRPC's own way to receive a message reads it whole, however large it is and however long that takes. So
// this file reads requests below gRPC's API: first the length, then the rest as it arrives and as the limit
// of bytes allows.

// wire is gRPC's transport stream, which handlers find in their context. Its methods are not promised to
// stay: where a later gRPC has another stream, TestRequestsAreReadFromTheWire fails, and so does every call.
type wire interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
	WriteStatus(*status.Status) error
}

const (
	messageHeader = 5
	// requestTime is how long a request may take to arrive, and slowestRate how much longer for what has
	// arrived: a caller that stops sending is cut off after requestTime. While others wait for a limit, one that
	// is stalledTime behind is cut off as well.
	requestTime = 10 * time.Second
	stalledTime = time.Second
	lateEvery   = time.Second // how often calls are looked for whose request is late
	slowestRate = 64 << 10    // bytes a second
	// resetPause is how much later the next frames of a connection are read for each call that its caller gives up before
	// the request has arrived: some thirty times what such a call costs. A deadline counts where it was below shortTime.
	resetPause = 2 * time.Millisecond
	shortTime  = time.Second
	// readChunk is how much of a request is read, and counted, at once.
	readChunk = 64 << 10
)

var (
	errNone   = status.Error(codes.Internal, from+"the call contains no request message")
	errNoWire = status.Error(codes.Internal, from+"this version of gRPC has another stream below its handlers")
	errMore   = status.Error(codes.Internal, from+"the call contains more than one request message")
)

// read takes in the one request of the call.
func (c *call) read() (err error) {
	r := c.reader
	defer r.close()
	// Left to itself gRPC compresses the answer to a compressed request, at eight times the cost of the call.
	if err := grpc.SetSendCompressor(c.ctx, "identity"); err != nil {
		return gaveUp(c.ctx, time.Now(), status.Error(codes.Internal, from+err.Error()))
	}
	data, err := r.message(c.ctx)
	c.in = frame.New(data...)
	if err == nil {
		err = r.end()
	}
	if err == nil {
		err = r.complete()
	}
	return r.failed(c.ctx, err)
}

// failed is the error of a request that has not arrived; nil: it has.
func (r *reader) failed(ctx context.Context, err error) error {
	if err = statusOf(err); err == nil || r.state.Load() == cutOff {
		return err
	}
	return gaveUp(ctx, r.started, err)
}

// gaveUp returns the error of a request that has not arrived. Where its caller gave it up, or its time is over, gRPC may say anything
// of the stream that has ended. The connection of one that cost its caller nothing is then read more slowly.
func gaveUp(ctx context.Context, began time.Time, err error) error {
	cause := ctx.Err()
	if deadline, ok := ctx.Deadline(); ok && cause != nil && !time.Now().Before(deadline) {
		cause = context.DeadlineExceeded // gRPC may cancel the context before that tells its own deadline
	}
	if cause == context.Canceled || cause != nil && time.Since(began) < shortTime || err == errNone {
		connectionOf(ctx).slow(resetPause)
	}
	if cause != nil {
		err = status.FromContextError(cause).Err()
	}
	return err
}

// reader reads a request from the wire.
type reader struct {
	wire    wire
	place   *place        // of the call; not nil once it is counted in
	limit   int64         // bytes of a message
	time    time.Duration // that a message may lag behind
	started time.Time
	state   atomic.Int32 // reading, hasArrived or cutOff
	arrived atomic.Int64 // bytes of the message
	header  [messageHeader]byte
	small   int64 // bytes of a small message that do not count yet

	// The admission's lock guards these: places in the orders of those who read, and of those of whom a part
	// is in memory; how many bytes it may have.
	turn, begun *list.Element
	most        int64
}

// newReader returns the reader of a call that enters with it.
func newReader(ctx context.Context, limit int64, within time.Duration) (*reader, error) {
	stream, ok := grpc.ServerTransportStreamFromContext(ctx).(wire)
	if !ok {
		return nil, errNoWire
	}
	return &reader{wire: stream, limit: limit, time: within, started: time.Now()}, nil
}

func (r *reader) close() { r.place.in.hasRead(r) }

// States of a reader.
const (
	reading int32 = iota
	hasArrived
	cutOff
)

// cut ends the call with an error, unless its request has arrived. Reading from the wire fails from then on.
func (r *reader) cut(err error) {
	if r.state.CompareAndSwap(reading, cutOff) {
		_ = r.wire.WriteStatus(answerFor(err))
	}
}

// complete notes that the request has arrived. It returns an error if the call was ended before.
func (r *reader) complete() error {
	if !r.state.CompareAndSwap(reading, hasArrived) {
		return answerFor(tooLate(r.time)).Err()
	}
	return nil
}

// lag is how far the request is behind the slowest rate.
func (r *reader) lag(now time.Time) time.Duration {
	return now.Sub(r.started) - time.Duration(r.arrived.Load())*time.Second/slowestRate
}

// message reads one message.
func (r *reader) message(ctx context.Context) (mem.BufferSlice, error) {
	if err := r.wire.ReadMessageHeader(r.header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errNone
		}
		return nil, err
	}
	return r.rest(ctx)
}

// once reads one message, after which it is closed.
func (r *reader) once(ctx context.Context) (data mem.BufferSlice, err error) {
	defer r.close()
	if data, err = r.message(ctx); err == nil {
		err = r.complete()
	}
	return data, err
}

// rest reads a message behind its header.
func (r *reader) rest(ctx context.Context) (mem.BufferSlice, error) {
	length := int64(binary.BigEndian.Uint32(r.header[1:]))
	if length > r.limit {
		return nil, tooLong(length, r.limit)
	}
	data, err := r.body(ctx, length)
	if err != nil || r.header[0]&1 == 0 {
		return data, err
	}
	return r.decompress(ctx, data)
}

// body reads the bytes of a message, and reserves them as they arrive: a length is quickly said.
func (r *reader) body(ctx context.Context, length int64) (mem.BufferSlice, error) {
	if length <= readChunk {
		data, err := r.wire.Read(int(length))
		if err == nil {
			err = r.reserve(ctx, length, length)
		}
		return data, err
	}
	var data mem.BufferSlice
	for length > r.arrived.Load() {
		part, err := r.wire.Read(int(min(length-r.arrived.Load(), readChunk)))
		data = append(data, part...)
		n := int64(part.Len())
		if err == nil {
			arrived := r.arrived.Add(n)
			r.begins(length)
			err = r.reserve(ctx, n, arrived)
		}
		if err != nil {
			data.Free()
			return nil, err
		}
	}
	return data, nil
}

// end makes sure that nothing follows the message.
func (r *reader) end() error {
	switch err := r.wire.ReadMessageHeader(r.header[:]); {
	case err == nil:
		return errMore
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// reserve reserves n bytes of a message that has length bytes so far.
func (r *reader) reserve(ctx context.Context, n, length int64) error {
	if _, ok := r.place.reserve(ctx, n, bytesWait, r); ok {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err // nobody waits for room any more
	}
	return r.place.in.noBytes("a request", length)
}

// tooLate is the answer to a request that took too long to arrive.
func tooLate(within time.Duration) error {
	return newRefusal(codes.DeadlineExceeded, "the request did not arrive within %s: something on the way is too slow, "+
		"or the caller stopped sending", within)
}

const (
	leastChunk = 1 << 10
	mostChunk  = 64 << 10
)

// decompress reserves bytes as it goes, since a few compressed bytes may become many.
func (r *reader) decompress(ctx context.Context, compressed mem.BufferSlice) (mem.BufferSlice, error) {
	defer compressed.Free()
	c := encoding.GetCompressor(r.wire.RecvCompress())
	if c == nil {
		return nil, status.Errorf(codes.Internal, "%sthe request is marked as compressed, and names no compression", from)
	}
	in := compressed.Reader()
	defer in.Close()
	plain, err := c.Decompress(in)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%sthe request cannot be decompressed: %v", from, err)
	}
	var out mem.BufferSlice
	var length int64
	r.begins(r.arrived.Load() + r.limit)
	// The first buffer has 1 KiB, or four times the compressed size; each later one is at most twice as large as the one before it.
	for chunk := min(max(4*compressed.Len(), leastChunk), mostChunk); ; chunk = min(2*chunk, mostChunk) {
		buf := frame.Clear.Get(chunk)
		n, err := fill(plain, *buf)
		if n > 0 {
			*buf = (*buf)[:n]
			out = append(out, mem.NewBuffer(buf, frame.Clear))
		} else {
			frame.Clear.Put(buf)
		}
		length += int64(n)
		ended := err == io.EOF
		switch {
		case err != nil && !ended:
			err = status.Errorf(codes.Internal, "%sthe request cannot be decompressed: %v", from, err)
		case length > r.limit:
			err = tooLong(length, r.limit)
		case n > 0:
			err = r.reserve(ctx, int64(n), length)
		default:
			err = nil
		}
		if err != nil {
			out.Free()
			return nil, err
		}
		if ended {
			if closer, ok := plain.(io.Closer); ok {
				_ = closer.Close() // gives a pooled reader back, and cannot fail
			}
			return out, nil
		}
	}
}

// fill is io.ReadFull, other than that it distinguishes the end from a message that breaks off.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	return n, err
}

// statusOf maps an error of the transport to an answer. Mostly the caller is gone and does not get it.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return answerFor(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return status.Error(codes.Internal, from+"the request ended too early")
	}
	return answerFor(err).Err()
}
