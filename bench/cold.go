package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// coldCase is what the first history costs a process that has none of its data keys, beside later ones.
type coldCase struct {
	name       string
	starts     int
	cold, warm openings
}

// openings are medians over processes; of warm ones each process contributes a mean.
type openings struct {
	wall, cpu float64 // microseconds
	keyCalls  float64 // of the key service
	tries     float64 // until the history was answered
	allocated allocations
}

const (
	kmsLatency = 20 * time.Millisecond
	// Calls before the first sealed history, so that connections, buffers and the heap are as in a process at work.
	warmQueries, warmHistories = 200, 20
	warmOpenings               = 20
	// settle is how long a process gets to end what it does after an answer, before its CPU is read.
	settle       = 20 * time.Millisecond
	clearHistory = "clear-history"
)

// coldStage is a frontend that holds the history sealed and in clear, for processes that come and go.
type coldStage struct {
	process  *process
	upstream string
	front    control
	dir      string
	sealed   call
	clear    call
	query    call
}

func newColdStage(ctx context.Context, fix *fixture, clear *historypb.History) (s *coldStage, err error) {
	s = new(coldStage)
	for _, c := range []struct {
		to      *call
		name    string
		history *historypb.History
	}{{&s.sealed, mixedWork, clear}, {&s.clear, clearHistory, clear}} {
		if *c.to, err = newCall("GetWorkflowExecutionHistory", historyRequest(c.name), historyResponse(c.history)); err != nil {
			return nil, err
		}
	}
	if s.query, err = newQuery(namespace, payload(newRand(), 1<<10)); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return nil, err
	}
	if s.process, s.upstream, err = startRole(ctx, "frontend"); err == nil {
		err = s.fill(ctx, fix, clear)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *coldStage) fill(ctx context.Context, fix *fixture, clear *historypb.History) (err error) {
	if s.front, err = newControl(s.upstream); err != nil {
		return err
	}
	for c, h := range map[*call]*historypb.History{&s.sealed: fix.sealed, &s.clear: clear} {
		b, err := proto.Marshal(historyResponse(h))
		if err != nil {
			return err
		}
		if err := s.front.put(ctx, c.method, c.request, b); err != nil {
			return err
		}
	}
	return nil
}

func (s *coldStage) stop() {
	if s.front.cc != nil {
		_ = s.front.cc.Close()
	}
	s.process.end()
	_ = os.RemoveAll(s.dir) // of the system's folder for such files
}

// open starts a process and has it open the sealed history for the first time, and then some more times.
func (s *coldStage) open(ctx context.Context, binary string, key keySource) (cold, warm openings, err error) {
	p, err := startProduct(ctx, productOptions{binary: binary, upstream: s.upstream, dir: s.dir, name: "cold",
		key: key.uri, env: key.env})
	if err != nil {
		return cold, warm, err
	}
	defer p.kill()
	cc, err := dial(p.address)
	if err != nil {
		return cold, warm, err
	}
	defer cc.Close()
	for i := range warmQueries + warmHistories {
		c := &s.query
		if i >= warmQueries {
			c = &s.clear
		}
		if _, err := c.make(ctx, cc); err != nil {
			return cold, warm, err
		}
	}
	if cold, err = s.measure(ctx, p, cc, 1); err != nil {
		return cold, warm, err
	}
	warm, err = s.measure(ctx, p, cc, warmOpenings)
	return cold, warm, err
}

// measure opens the sealed history so many times and returns the mean. An answer Unavailable is asked for again at once.
func (s *coldStage) measure(ctx context.Context, p *product, cc *grpc.ClientConn, times int) (o openings, err error) {
	meter, err := newMeter(ctx, p.admin)
	if err != nil {
		return o, err
	}
	before, err := p.cpu()
	if err != nil {
		return o, err
	}
	tries := 0
	began := time.Now()
	for range times {
		for again := true; again; {
			tries++
			_, err := s.sealed.make(ctx, cc)
			again = status.Code(err) == codes.Unavailable && tries < maxTries*times
			if err != nil && !again {
				return o, err
			}
		}
	}
	wall := time.Since(began)
	time.Sleep(settle)
	after, err := p.cpu()
	if err != nil {
		return o, err
	}
	used, err := meter.stop(ctx)
	n := float64(times)
	return openings{wall: micros(wall) / n, cpu: micros(after-before) / n, keyCalls: used.keyCalls / n,
		tries: float64(tries) / n, allocated: allocations{used.objects / n, used.bytes / n}}, err
}

// medianOpening returns the medians of many.
func medianOpening(all []openings) openings {
	pick := func(of func(openings) float64) float64 {
		values := make([]float64, len(all))
		for i, o := range all {
			values[i] = of(o)
		}
		return median(values)
	}
	return openings{
		wall:     pick(func(o openings) float64 { return o.wall }),
		cpu:      pick(func(o openings) float64 { return o.cpu }),
		keyCalls: pick(func(o openings) float64 { return o.keyCalls }),
		tries:    pick(func(o openings) float64 { return o.tries }),
		allocated: allocations{
			objects: pick(func(o openings) float64 { return o.allocated.objects }),
			bytes:   pick(func(o openings) float64 { return o.allocated.bytes }),
		},
	}
}

// coldCases measures with a key file, and with a KMS that takes its time if there is one.
func coldCases(ctx context.Context, o options, local *fixture, clear *historypb.History) (cases []coldCase, err error) {
	c, err := newColdCase(ctx, o, "key file", local, local.key, clear)
	if err != nil {
		return nil, fmt.Errorf("cold, key file: %w", err)
	}
	cases = append(cases, c)
	if o.kmsstub == "" {
		fmt.Fprintln(os.Stderr, "cold data keys behind a KMS are left out: no -kmsstub")
		return cases, nil
	}
	if c, err = kmsCase(ctx, o, clear); err != nil {
		return nil, fmt.Errorf("cold, KMS: %w", err)
	}
	return append(cases, c), nil
}

func newColdCase(ctx context.Context, o options, name string, fix *fixture, key keySource,
	clear *historypb.History) (c coldCase, err error) {
	stage, err := newColdStage(ctx, fix, clear)
	if err != nil {
		return c, err
	}
	defer stage.stop()
	var cold, warm []openings
	for range o.starts {
		first, later, err := stage.open(ctx, o.proxy, key)
		if err != nil {
			return c, err
		}
		cold, warm = append(cold, first), append(warm, later)
	}
	fmt.Fprintf(os.Stderr, "%s, %s done\n", coldWork, name)
	return coldCase{name: name, starts: o.starts, cold: medianOpening(cold), warm: medianOpening(warm)}, nil
}

// kmsCase seals with a KMS that answers at once, and opens with the same KMS behind a delay.
func kmsCase(ctx context.Context, o options, clear *historypb.History) (c coldCase, err error) {
	dir, err := fixtureDir(o.fixtures, o.proxy, clear, "kms")
	if err != nil {
		return c, err
	}
	stub, uri, err := startProcess(ctx, kmsLine, o.kmsstub, nil, "-listen", "127.0.0.1:0",
		"-keep", filepath.Join(dir, "kms.keep"))
	if err != nil {
		return c, err
	}
	defer stub.end()
	key := keySource{name: "KMS", uri: uri, env: []string{"AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench"}}
	maker := &fixtureMaker{binary: o.proxy, dir: dir}
	fix, err := maker.make(ctx, filepath.Join(dir, "history.binpb"), clear, key)
	if err != nil {
		return c, err
	}
	alias, endpoint, found := strings.Cut(uri, "endpoint=http://")
	if !found {
		return c, errors.New("the stub's URI has no endpoint: " + uri)
	}
	slow, address, err := startRole(ctx, "delay", "-upstream", endpoint, "-by", kmsLatency.String())
	if err != nil {
		return c, err
	}
	defer slow.end()
	key.uri = alias + "endpoint=http://" + address
	return newColdCase(ctx, o, fmt.Sprintf("KMS, %s a call", kmsLatency), fix, key, clear)
}

// kmsLine returns the key's URI from the stub's output.
func kmsLine(line string) string {
	if strings.HasPrefix(line, "awskms://") {
		return line
	}
	return ""
}
