// Command oracle compares two builds of the proxy. It sends the same requests through both, lets the same scripted
// frontend answer, and compares all that a user of the product can see: the status with its text and details, the answer
// as its caller gets it, what was forwarded to the frontend (sealed values opened), the size of that, audit records,
// metrics and log lines.
//
// Requests and answers are the recorded RPCs (testdata/rpc), the inputs of the golden pairs, and generated messages of
// all methods, both directions, with hostile encodings among them. Keys are shared, and all random numbers of the
// generator follow from the seed; nonces and data keys differ between any two runs, so sealed values are compared by what
// they open to, with which key, for which namespace.
//
// Differences are listed one by one. Intended ones stand with their reason in the file that -accepted names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

type options struct {
	old, new, accepted string
	messages           int
	seed               uint64
	most               int
}

func main() {
	var o options
	flag.StringVar(&o.old, "old", "", "`path` of the binary that is right")
	flag.StringVar(&o.new, "new", "", "`path` of the binary to compare with it")
	flag.StringVar(&o.accepted, "accepted", "", "`file` of intended differences")
	flag.IntVar(&o.messages, "messages", 12000, "how many messages to generate")
	flag.Uint64Var(&o.seed, "seed", 1, "of the random numbers")
	flag.IntVar(&o.most, "most", 40, "how many differences to print in full")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

// errDifferent ends the command with exit code 1 after the last line.
var errDifferent = errors.New("the two builds differ: see the list above, and accept what is intended with its reason")

func run(ctx context.Context, o options) error {
	if o.old == "" || o.new == "" {
		return errors.New("-old and -new are required")
	}
	found, err := readAccepted(o.accepted)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "oracle")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	keys := filepath.Join(dir, "keys")
	if err := makeKeys(ctx, o.old, keys); err != nil {
		return err
	}
	list, err := profiles(harness.Root(), keys)
	if err != nil {
		return err
	}
	c := &comparison{most: o.most, accepted: found, methods: map[string]bool{}, outcomes: map[string]int{}}
	for i, f := range list {
		cases, err := casesOf(f, i, len(list), o)
		if err != nil {
			return err
		}
		if err := c.profile(ctx, f, cases, o, filepath.Join(dir, f.name)); err != nil {
			return fmt.Errorf("profile %s: %w", f.name, err)
		}
	}
	c.unused(o.messages >= 10000)
	fmt.Printf("oracle: outcomes of calls: %s; %d sealed values compared by what they open to\n", c.outcomeText(), c.sealed)
	if err := c.meaningful(); err != nil {
		return err
	}
	fmt.Printf("oracle: %d messages, %d methods, %d differences\n", c.messages, len(c.methods), c.differences)
	if c.differences > 0 {
		return errDifferent
	}
	return nil
}

// makeKeys makes the key files that both builds share.
func makeKeys(ctx context.Context, binary, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"phi.key", "default.key"} {
		if out, err := exec.CommandContext(ctx, binary, "keys", "new", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			return fmt.Errorf("make the key %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// shares are the parts of the generated messages that each profile gets, in percent.
var shares = []int{45, 20, 15, 12, 8}

func casesOf(f *profile, index, profiles int, o options) ([]testCase, error) {
	if profiles != len(shares) {
		return nil, fmt.Errorf("%d profiles have %d shares", profiles, len(shares))
	}
	cases, err := captured(f, harness.Root())
	if err != nil {
		return nil, err
	}
	pairs, err := golden(f, harness.Root())
	if err != nil {
		return nil, err
	}
	cases = append(append(cases, pairs...), others(f)...)
	if len(f.tokens) > 0 {
		cases = append(cases, codecCases(f, o.seed, 120)...)
	}
	all, err := methods()
	if err != nil {
		return nil, err
	}
	calls := (o.messages*shares[index]/100 + 1) / 2
	for i := range calls {
		cases = append(cases, generated(f, all[i%len(all)], o.seed+uint64(index), uint64(i)))
	}
	return cases, nil
}

// slowTries is how often a case is run again whose time ran out in one of the builds.
const slowTries = 3

// inBoth runs a case in both builds at once.
func inBoth(ctx context.Context, sides [2]*side, one testCase) (seen [2]observation, err error) {
	var errs [2]error
	var both sync.WaitGroup
	for i, s := range sides {
		both.Go(func() { seen[i], errs[i] = s.run(ctx, one) })
	}
	both.Wait()
	return seen, errors.Join(errs[:]...)
}

// profile runs the cases through both builds, one after the other, each case in both at once.
func (c *comparison) profile(ctx context.Context, f *profile, cases []testCase, o options, dir string) error {
	var sides [2]*side
	for i, one := range []struct{ name, binary string }{{"old", o.old}, {"new", o.new}} {
		s, err := startSide(ctx, one.name, one.binary, filepath.Join(dir, one.name), f)
		if s != nil {
			defer s.stop()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		sides[i] = s
	}
	for _, one := range cases {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		seen, err := inBoth(ctx, sides, one)
		if err != nil {
			return err
		}
		for try := 0; (seen[0].wasSlow() || seen[1].wasSlow()) && try < slowTries; try++ {
			if seen, err = inBoth(ctx, sides, one); err != nil {
				return err
			}
			delete(seen[0], "metrics") // one of the two has evaluated rules before
			delete(seen[1], "metrics")
		}
		c.messages += one.messages
		c.outcomes[seen[0]["outcome"]]++
		c.sealed += strings.Count(seen[0]["forwarded"]+seen[0]["answer"], sealedWith)
		if one.in != nil {
			c.methods[one.method] = true
		}
		for _, aspect := range aspects {
			c.compare(one.name, aspect, seen[0][aspect], seen[1][aspect])
		}
	}
	c.compare(f.name, "log", sides[0].logText(), sides[1].logText())
	fmt.Printf("oracle: profile %s: %d calls, %d messages so far, %d differences\n",
		f.name, len(cases), c.messages, c.differences)
	return nil
}
