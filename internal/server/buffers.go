package server

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

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
