package main

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// replica is a place where a proxy runs: when one ends, the next one listens on the same addresses.
type replica struct {
	name, dir     string
	listen, admin string
	options       func() harness.ProxyOptions // as they are now

	mu    sync.Mutex
	proxy *harness.Proxy // nil while none runs
	logs  []*harness.Log // of all that ran here
}

func newReplica(name, dir string, options func() harness.ProxyOptions) (*replica, error) {
	ports, err := peers.FreePorts(2)
	if err != nil {
		return nil, err
	}
	return &replica{name: name, dir: dir, options: options,
		listen: net.JoinHostPort(peers.Host, strconv.Itoa(ports[0])), admin: net.JoinHostPort(peers.Host, strconv.Itoa(ports[1]))}, nil
}

func (r *replica) backend() *backend { return &backend{address: r.listen, ready: readyz(r.admin)} }

// configured is what a proxy at this place is started with, or reads again.
func (r *replica) configured() harness.ProxyOptions {
	o := r.options()
	o.Dir = r.dir
	o.Args = []string{"--listen", r.listen, "--admin", r.admin}
	return o
}

// start runs a proxy. One that does not come up, since its KMS or the server is away, is started again, as a kubelet does.
func (r *replica) start(ctx context.Context) error {
	for {
		p, err := harness.StartProxy(ctx, r.configured())
		if err == nil {
			r.mu.Lock()
			r.proxy, r.logs = p, append(r.logs, p.Log)
			r.mu.Unlock()
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (r *replica) running() *harness.Proxy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proxy
}

// kill ends the proxy as a crash does.
func (r *replica) kill() {
	if p := r.leave(); p != nil {
		p.Kill()
	}
}

// terminate ends the proxy as a deployment does: SIGTERM, and time to drain.
func (r *replica) terminate() error {
	if p := r.leave(); p != nil {
		return p.StopWithin(drainTime + drainDelay + 5*time.Second)
	}
	return nil
}

func (r *replica) leave() *harness.Proxy {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.proxy
	r.proxy = nil
	return p
}

// reconfigure writes the config that holds now, for a running proxy to take up.
func (r *replica) reconfigure() error {
	_, err := harness.WriteConfig(r.configured())
	return err
}

func (r *replica) allLogs() []*harness.Log {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.logs)
}
