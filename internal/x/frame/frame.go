// Package frame has gRPC messages as bytes: the frame that a call passes on unparsed, the codec that lets
// gRPC send and receive it, and the pools of buffers. It never looks into a message.
package frame

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Frame is one gRPC message as read from the wire, unparsed. It holds one reference to each of its
// buffers, which goes to gRPC when the frame is sent, or to Free.
type Frame struct {
	data mem.BufferSlice
}

// New returns the frame of a message in these buffers, whose references it takes over.
func New(data ...mem.Buffer) Frame { return Frame{data} }

// Bytes gives the message as one slice, which stays valid until Free. Messages up to one HTTP/2 data frame
// are not copied.
func (f *Frame) Bytes() []byte { return f.BytesIn(Clear) }

// BytesIn is Bytes with a buffer of that pool, if it takes one.
func (f *Frame) BytesIn(pool mem.BufferPool) []byte {
	switch len(f.data) {
	case 0:
		return nil
	case 1:
		return f.data[0].ReadOnlyData()
	}
	joined := f.data.MaterializeToBuffer(pool)
	f.data.Free()
	f.data = mem.BufferSlice{joined}
	return joined.ReadOnlyData()
}

// Len is the size of the message.
func (f *Frame) Len() int { return f.data.Len() }

// Share returns a second frame with references of its own to the same buffers.
func (f *Frame) Share() Frame {
	f.data.Ref()
	return *f
}

// Free gives up the references to the buffers, if they were not sent.
func (f *Frame) Free() {
	f.data.Free()
	f.data = nil
}

// Codec passes frames on as they are. All other messages get the codec that gRPC would use, so health,
// reflection and generated clients of the upstream are ordinary gRPC.
type Codec struct{}

var typedCodec = encoding.GetCodecV2(proto.Name)

var _ encoding.CodecV2 = Codec{}

// Name is part of the content type, which has to be the one that Temporal expects.
func (Codec) Name() string { return proto.Name }

// Marshal hands a frame's references over to gRPC.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*Frame); ok {
		data := f.data
		f.data = nil
		return data, nil
	}
	return typedCodec.Marshal(v)
}

// Unmarshal takes a reference to each buffer for the frame.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*Frame); ok {
		f.data.Free()
		data.Ref()
		f.data = data
		return nil
	}
	return typedCodec.Unmarshal(data, v)
}

const (
	minBufferExp = 10 // 1 KiB: gRPC never pools smaller buffers
	maxBufferExp = 24 // 16 MiB: what is larger is rare enough to leave to the garbage collector
)

// bufferPool is a mem.BufferPool with one sync.Pool per power of two. gRPC's own pool has no tier between 32
// KiB and 1 MiB and clears a whole buffer each time it hands one out, which is a third of the CPU time at 100
// KB. This one clears what was used when it comes back, where it has to.
type bufferPool struct {
	tiers  [maxBufferExp + 1]sync.Pool
	clears bool
}

var (
	// Clear are for what goes to and comes from callers: it may be a user's clear text and must not linger.
	Clear mem.BufferPool = &bufferPool{clears: true}
	// Sealed are for what is read from and written to the upstream, which sees it just so.
	Sealed mem.BufferPool = new(bufferPool)
)

// Get returns a buffer of that length. Its content is not specified.
func (p *bufferPool) Get(length int) *[]byte {
	exp := minBufferExp
	if length > 1<<minBufferExp {
		exp = bits.Len(uint(length - 1))
	}
	if exp > maxBufferExp {
		b := make([]byte, length)
		return &b
	}
	if buf, ok := p.tiers[exp].Get().(*[]byte); ok {
		*buf = (*buf)[:length]
		return buf
	}
	b := make([]byte, length, 1<<exp)
	return &b
}

// Put takes a buffer back, cleared where it may have been clear text.
func (p *bufferPool) Put(buf *[]byte) {
	if p.clears {
		clear(*buf)
	}
	exp := bits.Len(uint(cap(*buf))) - 1 // the largest tier that this buffer fills
	if exp < minBufferExp || exp > maxBufferExp {
		return
	}
	p.tiers[exp].Put(buf)
}
