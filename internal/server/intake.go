package server

import (
	"net"
	"sync"
)

// intake gives the connections of a listener to one of two gRPC servers: to the first one until turn is called, and to the
// second one from then on. The listener closes with the second one.
type intake struct {
	connections   *connections
	turned        chan struct{}
	first, second *branch
}

// branch is the listener of one of the two. It is a net.Listener.
type branch struct {
	of       *connections
	arriving chan arrival
	closed   chan struct{}
	close    func() error
}

// arrival is what one Accept returns.
type arrival struct {
	conn net.Conn
	err  error
}

func newIntake(c *connections) *intake {
	return &intake{connections: c, turned: make(chan struct{}),
		first: newBranch(c, func() error { return nil }), second: newBranch(c, c.Close)}
}

// newBranch returns a branch that calls end when it closes.
func newBranch(c *connections, end func() error) *branch {
	b := &branch{of: c, arriving: make(chan arrival), closed: make(chan struct{})}
	b.close = sync.OnceValue(func() error {
		close(b.closed)
		return end()
	})
	return b
}

// turn has all connections that are accepted from now on go to the second server.
func (i *intake) turn() { close(i.turned) }

// run accepts connections until the listener closes or fails.
func (i *intake) run() {
	for {
		conn, err := i.connections.Accept()
		taken := i.give(arrival{conn, err})
		passing, _ := err.(interface{ Temporary() bool }) // as gRPC asks
		if !taken || err != nil && (passing == nil || !passing.Temporary()) {
			return
		}
	}
}

// give waits for the server whose turn it is. It reports false, and closes the connection, if that has ended.
func (i *intake) give(a arrival) bool {
	select {
	case <-i.turned:
	default:
		select {
		case i.first.arriving <- a:
			return true
		case <-i.turned:
		case <-i.first.closed:
		}
	}
	select {
	case i.second.arriving <- a:
		return true
	case <-i.second.closed:
		if a.conn != nil {
			_ = a.conn.Close()
		}
		return false
	}
}

// Accept returns the next connection.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case a := <-b.arriving:
		return a.conn, a.err
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (b *branch) Close() error { return b.close() }

// Addr returns the listener's address.
func (b *branch) Addr() net.Addr { return b.of.Addr() }
