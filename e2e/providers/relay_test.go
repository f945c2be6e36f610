package providers

import (
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// relay passes connections on to a service. It can delay what it passes on, or keep silent while connections stay open.
type relay struct {
	address string

	mu    sync.Mutex
	delay time.Duration // of each piece
	quiet chan struct{} // closed when connections that are kept silent may go
}

// newRelay starts a relay in front of a service of the same network, tcp or unix.
func newRelay(t *testing.T, network, to string) *relay {
	t.Helper()
	listen := "127.0.0.1:0"
	if network == "unix" {
		listen = filepath.Join(filepath.Dir(to), "relay")
	}
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r := &relay{address: l.Addr().String()}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(from, network, to)
		}
	}()
	return r
}

func (r *relay) serve(from net.Conn, network, to string) {
	defer func() { _ = from.Close() }()
	onward, err := net.Dial(network, to)
	if err != nil {
		return
	}
	defer func() { _ = onward.Close() }()
	ends := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{from, onward}, {onward, from}} {
		go func() {
			r.copy(way[1], way[0])
			ends <- struct{}{}
		}()
	}
	<-ends
}

func (r *relay) copy(to io.Writer, from io.Reader) {
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		r.mu.Lock()
		delay, quiet := r.delay, r.quiet
		r.mu.Unlock()
		time.Sleep(delay)
		if quiet != nil {
			<-quiet
			return // what was held is lost, as on a network that was cut
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}

// slow delays what is passed on, until undo is called.
func (r *relay) slow(by time.Duration) (undo func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = by
	return func() { r.slow(0) }
}

// silent passes nothing on and closes nothing, until undo is called.
func (r *relay) silent() (undo func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	quiet := make(chan struct{})
	r.quiet = quiet
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.quiet = nil
		close(quiet)
	}
}
