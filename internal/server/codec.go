package server

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// frame is one gRPC message as it came from the wire, unparsed. It holds one reference to each of its buffers, which
// goes to gRPC when the frame is sent, or to free.
type frame struct {
	data mem.BufferSlice
}

// bytes gives the message as one slice, which stays valid until free. Messages up to one HTTP/2 data frame are not
// copied.
func (f *frame) bytes() []byte { return f.bytesIn(buffers) }

// bytesIn is bytes with a buffer of that pool, if it takes one.
func (f *frame) bytesIn(pool mem.BufferPool) []byte {
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

// free gives up the references to the buffers, if they were not sent.
func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// rawCodec passes frames on as they are. All other messages get the codec that gRPC would use, so health, reflection and
// generated clients of the upstream are ordinary gRPC.
type rawCodec struct{}

var typedCodec = encoding.GetCodecV2(proto.Name)

var _ encoding.CodecV2 = rawCodec{}

// Name is part of the content type, which has to be the one that Temporal expects.
func (rawCodec) Name() string { return proto.Name }

// Marshal hands a frame's references over to gRPC.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		data := f.data
		f.data = nil
		return data, nil
	}
	return typedCodec.Marshal(v)
}

// Unmarshal takes a reference to each buffer for the frame.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
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

// bufferPool is a mem.BufferPool with one sync.Pool per power of two. gRPC's own pool has no tier between 32 KiB and
// 1 MiB and clears a whole buffer each time it hands one out, which is a third of the CPU time at 100 KB. This one
// clears what was used when it comes back, where it has to.
type bufferPool struct {
	tiers  [maxBufferExp + 1]sync.Pool
	clears bool
}

var (
	// buffers are for what goes to and comes from callers: it may be a user's clear text and must not linger.
	buffers mem.BufferPool = &bufferPool{clears: true}
	// upstreamBuffers are for what is read from and written to the upstream, which sees it just so.
	upstreamBuffers mem.BufferPool = new(bufferPool)
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
