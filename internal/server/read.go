package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// gRPC reads a message whole before a handler hears of it, however large it is and however long it takes. So this file
// reads the request itself: first how long it is, then, if there is room for it, the rest.

// wire is what a handler can do with its stream below gRPC's own API. It is not promised to stay: where a later gRPC has
// no such stream, TestRequestsAreReadFromTheWire fails, and messages are counted after they were read.
type wire interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
	WriteStatus(*status.Status) error
}

const (
	messageHeader = 5
	// requestTime is how long a request may take to arrive, and slowestRate what it may take longer for its size.
	requestTime = 30 * time.Second
	slowestRate = 64 << 10 // bytes a second
)

var (
	errLate = &refusal{codes.DeadlineExceeded, fmt.Sprintf("the request did not arrive within %s: something on the way is too slow, or the caller stopped sending", requestTime)}
	errNone = status.Error(codes.Internal, from+"the call holds no request message")
	errMore = status.Error(codes.Internal, from+"the call holds more than one request message")
)

// receive reads the one request of a unary call. What it takes in memory is noted in r. other is gRPC's way to read it.
func (s *Server) receive(ctx context.Context, r *release, other func(any) error) (*frame, error) {
	stream, ok := grpc.ServerTransportStreamFromContext(ctx).(wire)
	if !ok {
		in := new(frame)
		if err := other(in); err != nil {
			return nil, err
		}
		r.count(int64(in.data.Len()))
		return in, nil
	}
	late := time.AfterFunc(s.requestTime, func() {
		_ = stream.WriteStatus(answerFor(errLate)) // ends the call, and with it the reading below
	})
	defer late.Stop()
	m := message{server: s, wire: stream, release: r, late: late}
	data, err := m.read(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	return &frame{data: data}, nil
}

// message is one that is being read.
type message struct {
	server  *Server
	wire    wire
	release *release
	late    *time.Timer
}

func (m *message) read(ctx context.Context) (mem.BufferSlice, error) {
	var header [messageHeader]byte
	if err := m.wire.ReadMessageHeader(header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errNone
		}
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(header[1:]))
	if length > m.server.largest {
		return nil, tooLong(length, m.server.largest)
	}
	if !m.release.reserve(ctx, length, roomWait) {
		return nil, m.noRoom(length)
	}
	if length > unreserved {
		m.late.Reset(m.server.requestTime + time.Duration(length/slowestRate)*time.Second)
	}
	data, err := m.wire.Read(int(length))
	if err != nil {
		return nil, err
	}
	if header[0]&1 != 0 {
		if data, err = m.decompress(ctx, data); err != nil {
			return nil, err
		}
	}
	if err := m.wire.ReadMessageHeader(header[:]); !errors.Is(err, io.EOF) {
		data.Free()
		if err == nil {
			err = errMore
		}
		return nil, err
	}
	return data, nil
}

func (m *message) noRoom(length int64) error {
	m.server.overLimit("bytes")
	return noRoom("a request", length, m.server.room.size)
}

// tooLong uses gRPC's words for it, which workers know.
func tooLong(length, limit int64) error {
	return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", length, limit)
}

const (
	leastChunk = 1 << 10
	mostChunk  = 64 << 10
)

// decompress asks for room as it goes: a few bytes may become many.
func (m *message) decompress(ctx context.Context, compressed mem.BufferSlice) (mem.BufferSlice, error) {
	defer compressed.Free()
	c := encoding.GetCompressor(m.wire.RecvCompress())
	if c == nil {
		return nil, status.Errorf(codes.Internal, "%sthe request is marked as compressed, and names no compression", from)
	}
	in := compressed.Reader()
	defer in.Close()
	r, err := c.Decompress(in)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%sthe request cannot be decompressed: %v", from, err)
	}
	var out mem.BufferSlice
	var length int64
	for chunk := min(max(4*compressed.Len(), leastChunk), mostChunk); ; chunk = mostChunk {
		buf := buffers.Get(chunk)
		n, err := fill(r, *buf)
		*buf = (*buf)[:n]
		out = append(out, mem.NewBuffer(buf, buffers))
		length += int64(n)
		switch {
		case err == io.EOF:
			if closer, ok := r.(io.Closer); ok {
				_ = closer.Close() // gives a pooled reader back, and cannot fail
			}
			return out, nil
		case err != nil:
			err = status.Errorf(codes.Internal, "%sthe request cannot be decompressed: %v", from, err)
		case length > m.server.largest:
			err = tooLong(length, m.server.largest)
		case !m.release.reserve(ctx, int64(n), roomWait):
			err = m.noRoom(length)
		}
		if err != nil {
			out.Free()
			return nil, err
		}
	}
}

// fill is io.ReadFull, but tells an end from a message that breaks off.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	return n, err
}

// statusOf makes what the transport said an answer; mostly nobody is left to read it.
func statusOf(err error) error {
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
