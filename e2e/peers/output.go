package peers

import (
	"bytes"
	"io"
	"sync"
)

// tailSize bounds what is kept of a program's output for error messages.
const tailSize = 8 << 10

// lineCounter counts lines and keeps the last of what was written.
type lineCounter struct {
	mu   sync.Mutex
	n    int
	last tailBuffer
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += bytes.Count(p, []byte("\n"))
	return c.last.Write(p)
}

func (c *lineCounter) lines() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *lineCounter) tail() string { return c.last.String() }

// tailBuffer keeps the last of what was written, and hands everything on to a writer if it has one.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
	to  io.Writer
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if over := len(b.buf) - tailSize; over > 0 {
		b.buf = append(b.buf[:0], b.buf[over:]...)
	}
	if b.to != nil {
		b.to.Write(p) // a log that can't be written must not end the program that it belongs to
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}
