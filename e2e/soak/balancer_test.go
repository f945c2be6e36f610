package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers each line with its own name.
func echo(t *testing.T, name string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					_, _ = fmt.Fprintln(conn, name)
				}
			}()
		}
	}()
	return l
}

type caller struct {
	net.Conn
	answers *bufio.Reader
}

func call(t *testing.T, b *balancer) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	return &caller{conn, bufio.NewReader(conn)}
}

func (c *caller) ask() string {
	_, _ = fmt.Fprintln(c, "who?")
	answer, err := c.answers.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return answer[:len(answer)-1]
}

// TestBalancer: connections go in turns to backends that are ready; one that is not keeps those that it has.
func TestBalancer(t *testing.T) {
	var drains atomic.Bool
	one, two := echo(t, "one"), echo(t, "two")
	b, err := newBalancer(
		&backend{address: one.Addr().String(), ready: func(context.Context) bool { return !drains.Load() }},
		&backend{address: two.Addr().String(), ready: func(context.Context) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	eventually(t, func() bool { return b.backends[0].isReady.Load() && b.backends[1].isReady.Load() })
	seen := map[string]*caller{}
	for range 4 {
		c := call(t, b)
		seen[c.ask()] = c
	}
	if seen["one"] == nil || seen["two"] == nil || len(seen) != 2 {
		t.Fatalf("four connections were answered by %v", seen)
	}
	drains.Store(true)
	eventually(t, func() bool { return !b.backends[0].isReady.Load() })
	for range 4 {
		if who := call(t, b).ask(); who != "two" {
			t.Errorf("a new connection went to %s, which is not ready", who)
		}
	}
	if who := seen["one"].ask(); who != "one" {
		t.Errorf("the connection to a backend that drains was answered %q", who)
	}
}

// TestBalancerPassesTheEndOn: the end of one side reaches the other, and a backend that is gone takes no connection.
func TestBalancerPassesTheEndOn(t *testing.T) {
	gone, two := echo(t, "gone"), echo(t, "two")
	address := gone.Addr().String()
	_ = gone.Close()
	always := func(context.Context) bool { return true }
	b, err := newBalancer(&backend{address: address, ready: always}, &backend{address: two.Addr().String(), ready: always})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return b.backends[0].isReady.Load() && b.backends[1].isReady.Load() })
	for range 3 {
		c := call(t, b)
		if who := c.ask(); who != "two" {
			t.Errorf("answered %q", who)
		}
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if _, err := c.answers.ReadByte(); err != io.EOF {
			t.Errorf("the end of a connection came back as %v", err)
		}
	}
	held := call(t, b)
	held.ask()
	b.close()
	if who := held.ask(); who == "two" {
		t.Error("a closed balancer still joins connections")
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in time")
		}
	}
}
