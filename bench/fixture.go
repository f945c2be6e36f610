package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/proto"
)

// fixture is a history that was sealed as histories are: by several processes of a product, which were restarted from
// time to time, and so with many data keys. What is sealed stays on disk for later runs with the same binary.
type fixture struct {
	sealed *historypb.History
	key    keySource
}

// keySource is where the data keys of a fixture come from.
type keySource struct {
	name string // "local" or "kms"
	uri  string
	env  []string
}

const (
	// epochs is over how many lives of processes a history is sealed. An epoch's data key, and whatever else a process draws
	// at its start, differ from those of all others.
	epochs = 300
	// sealingProcesses seal a history side by side, as the replicas of a deployment do.
	sealingProcesses = 3
	// fixtureRules has half of the payloads pass: see fixtureMaker.epoch.
	fixtureRules = `request contains {"action": "pass"} if input.workflow.id == "` + clearWorkflow + `"`
	keptFixtures = 16
)

// fixtureMaker seals histories with a binary.
type fixtureMaker struct {
	binary string
	dir    string // for policies and logs of the sealing processes
}

// localFixture returns the history as a binary seals it with a key file, which is made with it.
func localFixture(ctx context.Context, o options, binary string, clear *historypb.History) (*fixture, error) {
	dir, err := fixtureDir(o.fixtures, binary, clear, "local")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "local.key")
	key := keySource{name: "local", uri: "local:" + file}
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		if key.uri, err = newKey(ctx, binary, file); err != nil {
			return nil, err
		}
	}
	return (&fixtureMaker{binary: binary, dir: dir}).make(ctx, filepath.Join(dir, "history.binpb"), clear, key)
}

// fixtureDir returns the folder of a fixture, made if need be, and removes what older runs left. The folder's name is a
// digest of all that the fixture depends on: the binary, the history in clear, and how it is sealed.
func fixtureDir(cache, binary string, clear *historypb.History, key string) (string, error) {
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "temporal-seal", "bench")
	}
	h := sha256.New()
	file, err := os.Open(binary)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(h, file)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(clear)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%x %s %d %d %s %s", sha256.Sum256(b), namespace, epochs, sealingProcesses, fixtureRules, key)
	dir := filepath.Join(cache, hex.EncodeToString(h.Sum(nil)[:16]))
	now := time.Now() // in use: it is not among the oldest, for this run's other fixtures either
	return dir, errors.Join(os.MkdirAll(dir, 0o700), os.Chtimes(dir, now, now), pruneFixtures(cache))
}

// pruneFixtures removes all but the newest folders.
func pruneFixtures(cache string) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	age := func(e os.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{} // another run has removed it
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(age(b).UnixNano(), age(a).UnixNano()) })
	for _, e := range entries[min(len(entries), keptFixtures):] {
		err = errors.Join(err, os.RemoveAll(filepath.Join(cache, e.Name())))
	}
	return err
}

// make returns the history as the product seals it, from file if it is there.
func (m *fixtureMaker) make(ctx context.Context, file string, clear *historypb.History, key keySource) (*fixture, error) {
	h := new(historypb.History)
	if b, err := os.ReadFile(file); err == nil {
		if err := proto.Unmarshal(b, h); err != nil {
			return nil, fmt.Errorf("%s: %w; remove it", file, err)
		}
		return &fixture{sealed: h, key: key}, nil
	}
	began := time.Now()
	h = proto.CloneOf(clear)
	if err := m.seal(ctx, h, key); err != nil {
		return nil, err
	}
	if ok, err := sealed(&historypb.History{Events: h.Events}, true); err != nil {
		return nil, err
	} else if ok {
		return nil, errors.New("the policy let nothing pass, though half of the payloads should")
	}
	b, err := proto.Marshal(h)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "a history of %d events, %d KB, was sealed over %d epochs with %s keys in %s\n",
		len(h.Events), len(b)>>10, epochs, key.name, time.Since(began).Round(time.Second))
	return &fixture{sealed: h, key: key}, errors.Join(os.WriteFile(file+".new", b, 0o600), os.Rename(file+".new", file))
}

// seal has the slots of a history sealed in their order, each epoch's by a process of its own.
func (m *fixtureMaker) seal(ctx context.Context, h *historypb.History, key keySource) error {
	all, err := slotsOf(h)
	if err != nil {
		return err
	}
	front, addresses, err := startRole(ctx, "frontend", "-count", fmt.Sprint(sealingProcesses))
	if err != nil {
		return err
	}
	defer front.end()
	upstreams := splitAddresses(addresses)
	for i, generation := range deal(all) {
		errs := make(chan error)
		for j, mine := range generation {
			go func() { errs <- m.epoch(ctx, fmt.Sprint("sealing-", j), upstreams[j], mine, key) }()
		}
		var err error
		for range generation {
			err = errors.Join(err, <-errs)
		}
		if err != nil {
			return fmt.Errorf("generation %d of sealing processes: %w", i+1, err)
		}
	}
	return nil
}

// deal divides the slots into generations of processes, and those of a generation among its processes in turns.
func deal(all slots) (generations [epochs / sealingProcesses][sealingProcesses]slots) {
	part := func(n, i int) (from, to int) { return n * i / len(generations), n * (i + 1) / len(generations) }
	for i := range generations {
		fromP, toP := part(len(all.payloads), i)
		fromF, toF := part(len(all.failures), i)
		for j := range sealingProcesses {
			generations[i][j] = slots{everyNth(all.payloads[fromP:toP], j), everyNth(all.failures[fromF:toF], j)}
		}
	}
	return generations
}

func everyNth[T any](list []T, first int) (some []T) {
	for i := first; i < len(list); i += sealingProcesses {
		some = append(some, list[i])
	}
	return some
}

// passes reports whether a payload passes in clear by the policy: by its place among those of its epoch.
func passes(place int) bool { return place%2 == 1 }

// epoch is the life of one process. Its failures are all sealed.
func (m *fixtureMaker) epoch(ctx context.Context, name, upstream string, mine slots, key keySource) error {
	p, err := startProduct(ctx, productOptions{binary: m.binary, upstream: upstream, dir: m.dir, name: name,
		rules: fixtureRules, key: key.uri, env: key.env})
	if err != nil {
		return err
	}
	defer p.kill()
	cc, err := dial(p.address)
	if err != nil {
		return err
	}
	defer cc.Close()
	front, err := newControl(upstream)
	if err != nil {
		return err
	}
	defer front.cc.Close()
	through := sealer{proxy: cc, frontend: front}
	for i, p := range mine.payloads {
		workflow := "sealed"
		if passes(i) {
			workflow = clearWorkflow
		}
		if err := through.sealPayloads(ctx, workflow, mine.payloads[i:i+1]); err != nil {
			return err
		}
		if ok, err := sealed(payloads(p), true); err != nil {
			return err
		} else if ok == passes(i) {
			return fmt.Errorf("a payload of workflow %q arrived sealed: %v", workflow, ok)
		}
	}
	if err := through.sealFailures(ctx, mine.failures); err != nil {
		return err
	}
	ok, err := sealed(failuresOf(mine.failures), true)
	if err == nil && !ok {
		err = errors.New("a failure arrived in clear")
	}
	return err
}

// failuresOf puts failures into a message.
func failuresOf(failures []*failurepb.Failure) *historypb.History {
	h := new(history)
	for _, f := range failures {
		h.activityFailed(f)
	}
	return &historypb.History{Events: h.events}
}
