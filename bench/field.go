package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// field is all that takes part in a run: the frontends, the trace collector, and the variants between load and frontend.
type field struct {
	dir       string
	works     []work
	fixture   *fixture
	frontends *process
	sink      *process
	variants  []*variant
	lengths   map[string]map[string]int // bytes of the answers that variants' frontends hold, by work and variant
}

// variant is one thing that can stand between load and frontend. Each has a frontend of its own.
type variant struct {
	name    string
	process *process // nil: direct
	admin   string   // of a product
	seals   coverage
	conns   []*grpc.ClientConn
	front   control
}

// coverage is what a variant seals.
type coverage int

const (
	nothing coverage = iota
	payloadsOnly
	everything // failures as well
)

const (
	direct  = "direct"
	plain   = "relay"
	visited = "visitor"
	passing = "pass"
	sealing = "seal"
	// sealedPlain is the relay once more, before the histories that seal's frontend holds: it shows how much of a proxy's
	// cost comes from sealed bytes being more than clear ones.
	sealedPlain = "relay-sealed"
	// referring is seal with a key store in SQLite: envelopes are by reference to its rows, and shorter.
	referring   = "seal-reference"
	traced      = "seal-traced"
	audited     = "seal-audited"
	tracedAudit = "seal-traced-audited"
)

// sampled is the share of calls that all products trace, apart from those in whose names that stands.
const sampled = 0.01

var variantNames = []string{direct, plain, "nginx", visited, passing, sealing, sealedPlain, referring, traced, audited, tracedAudit}

// takes reports whether the variant takes part in a work. Tracing and audit are rows of a few works only.
func (v *variant) takes(work string) bool {
	switch v.name {
	case sealedPlain:
		return strings.HasPrefix(work, historyWork)
	case referring:
		return strings.HasPrefix(work, historyWork) && !strings.HasPrefix(work, mixedWork) || work == "query_1KB_x16"
	case traced, audited, tracedAudit:
		return slices.Contains([]string{"query_1KB_x16", "history_1000_x16", mixedWork + "_x16", mixWork + "_x16"}, work)
	}
	return true
}

// callersPerConnection is about that of a busy worker.
const callersPerConnection = 16

// startField starts the chosen variants and gives each frontend its answers.
func startField(ctx context.Context, o options, works []work, fix *fixture) (*field, error) {
	f := &field{works: works, fixture: fix, lengths: map[string]map[string]int{}}
	if err := f.start(ctx, o); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

func (f *field) start(ctx context.Context, o options) (err error) {
	if f.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return err
	}
	var line string
	if f.frontends, line, err = startRole(ctx, "frontend", "-count", fmt.Sprint(len(variantNames))); err != nil {
		return err
	}
	upstreams := splitAddresses(line)
	var sink string
	if f.sink, sink, err = startRole(ctx, "sink"); err != nil {
		return err
	}
	for i, name := range variantNames {
		if name != direct && name != plain && !chosen(o.variants, name) {
			continue
		}
		if name == sealedPlain && f.variant(sealing) == nil {
			continue // nobody stores sealed histories
		}
		if err := f.add(ctx, name, o.proxy, upstreams[i], sink); errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", name, err)
		} else if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// add starts a variant and gives its frontend, which listens on upstream, the answers of all works.
func (f *field) add(ctx context.Context, name, binary, upstream, sink string) error {
	v, address, err := f.begin(ctx, name, binary, upstream, sink)
	if err != nil {
		return err
	}
	f.variants = append(f.variants, v)
	if err := v.connect(address, upstream); err != nil {
		return err
	}
	return f.prepare(ctx, v)
}

func (f *field) variant(name string) *variant {
	for _, v := range f.variants {
		if v.name == name {
			return v
		}
	}
	return nil
}

// begin starts a variant's process and returns where to call it.
func (f *field) begin(ctx context.Context, name, binary, upstream, sink string) (v *variant, address string, err error) {
	v = &variant{name: name}
	switch name {
	case direct:
		return v, upstream, nil
	case plain, sealedPlain:
		v.process, address, err = startRole(ctx, "relay", "-upstream", upstream)
		return v, address, err
	case "nginx":
		v.process, address, err = startNginx(ctx, f.dir, upstream)
		return v, address, err
	case visited:
		v.seals = payloadsOnly
		v.process, address, err = startRole(ctx, "visitor", "-upstream", upstream)
		return v, address, err
	}
	o := productOptions{binary: binary, upstream: upstream, dir: f.dir, name: name,
		key: f.fixture.key.uri, env: f.fixture.key.env, sink: sink, sampled: sampled}
	if name == passing {
		o.rules = `request contains {"action": "pass"}`
		o.endpoints = map[string]string{"laboratory": namespace} // where one leads that is not known, nothing passes
	} else {
		v.seals = everything
	}
	if name == traced || name == tracedAudit {
		o.sampled = 1
	}
	o.audit = name == audited || name == tracedAudit
	if name == referring {
		if o.store, o.storeID, err = newStore(ctx, binary, filepath.Join(f.dir, "keys.db")); err != nil {
			return nil, "", err
		}
	}
	p, err := startProduct(ctx, o)
	if err != nil {
		return nil, "", err
	}
	v.process, v.admin = p.process, p.admin
	return v, p.address, nil
}

func (v *variant) connect(address, upstream string) (err error) {
	if v.front, err = newControl(upstream); err != nil {
		return err
	}
	for range maxCallers / callersPerConnection {
		cc, err := dial(address)
		if err != nil {
			return err
		}
		v.conns = append(v.conns, cc)
	}
	return nil
}

// clear stops the variants alone.
func (f *field) clear() {
	for _, v := range f.variants {
		v.stop()
	}
	f.variants = nil
}

func (f *field) stop() {
	f.clear()
	f.frontends.end()
	f.sink.end()
	_ = os.RemoveAll(f.dir) // of the system's folder for such files
}

func (v *variant) stop() {
	for _, cc := range v.conns {
		_ = cc.Close()
	}
	if v.front.cc != nil {
		_ = v.front.cc.Close()
	}
	v.process.end()
}

// prepare puts the answers of all works into the variant's frontend, sealed by the variant itself, and checks that every
// call's answer comes out as it should and that nothing reached the frontend in clear that should not.
func (f *field) prepare(ctx context.Context, v *variant) error {
	for _, w := range f.works {
		if !v.takes(w.name) {
			continue
		}
		for _, a := range w.stored {
			n, err := f.store(ctx, v, a)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if f.lengths[w.name] == nil {
				f.lengths[w.name] = map[string]int{}
			}
			f.lengths[w.name][v.name] += n
		}
		if v.name == sealedPlain {
			continue
		}
		for _, c := range w.calls {
			if err := v.check(ctx, c); err != nil {
				return fmt.Errorf("%s: %s: %w", w.name, c.method, err)
			}
		}
	}
	return nil
}

// store puts an answer into the variant's frontend, and returns its length.
func (f *field) store(ctx context.Context, v *variant, a answer) (int, error) {
	response := proto.Clone(a.response)
	by := v
	if v.name == sealedPlain {
		by = f.variant(sealing)
	}
	switch {
	case by.seals == nothing:
	case by.seals == everything && a.fixture:
		response = historyResponse(f.fixture.sealed)
	default:
		through := sealer{proxy: by.conns[0], frontend: by.front}
		if err := through.seal(ctx, response); err != nil {
			return 0, err
		}
		if ok, err := sealed(response, by.seals == everything); err != nil {
			return 0, err
		} else if !ok {
			return 0, errors.New("some of the answer arrived at the frontend in clear")
		}
	}
	b, err := proto.Marshal(response)
	if err != nil {
		return 0, err
	}
	return len(b), v.front.put(ctx, a.method, a.request, b)
}

// maxTries is how often a call is made at most.
const maxTries = 10

// check makes a call and looks at both ends of it.
func (v *variant) check(ctx context.Context, c call) error {
	got := c.want.ProtoReflect().New().Interface()
	// A client tries again what is Unavailable: the product limits how many unknown data keys it has unwrapped for one
	// message, and goes on from there at the next try.
	err := status.Error(codes.Unavailable, "")
	for try := 0; try < maxTries && status.Code(err) == codes.Unavailable; try++ {
		err = v.conns[0].Invoke(ctx, service+c.method, c.message, got)
	}
	if err != nil {
		return err
	}
	if !proto.Equal(got, c.want) {
		return errors.New("the answer is not the one that was stored")
	}
	arrived := c.message.ProtoReflect().New().Interface()
	if err := v.front.lastRequest(ctx, c.method, arrived); err != nil {
		return err
	}
	if v.seals == nothing {
		if !proto.Equal(arrived, c.message) {
			return errors.New("the frontend received another request")
		}
		return nil
	}
	ok, err := sealed(arrived, v.seals == everything)
	if err == nil && !ok {
		err = errors.New("the request reached the frontend in clear")
	}
	return err
}
