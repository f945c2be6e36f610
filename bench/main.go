package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

type options struct {
	proxy    string
	rounds   int
	turn     time.Duration
	variants string
	works    string
	plot     string
	doc      string
	fixtures string
	rpc      string
	starts   int
	kmsstub  string
}

// commands are what this program does beside the comparison with others, by its first argument.
var commands = map[string]func(ctx context.Context, args []string) error{
	"compare": compare, "scale": scale, "profile": profileCommand,
}

func main() {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			exit(role(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		if command, ok := commands[os.Args[1]]; ok {
			exit(command(ctx, os.Args[2:]))
		}
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	o.shared(flags)
	flags.StringVar(&o.proxy, "proxy", "bin/temporal-seal", "the proxy's binary")
	flags.IntVar(&o.rounds, "rounds", 5, "turns that each variant takes at each work; the median counts")
	flags.StringVar(&o.variants, "variants", "",
		"only variants whose names start so, with commas between; direct and relay are always there")
	flags.StringVar(&o.plot, "plot", "", "`file` for a plot in SVG")
	flags.IntVar(&o.starts, "cold", -1,
		"how many processes open their first sealed history; 0: none; -1: twice the rounds")
	flags.StringVar(&o.kmsstub, "kmsstub", "",
		"`path` of the built e2e/cmd/kmsstub, for cold data keys behind a KMS; empty: without")
	flags.StringVar(&o.doc, "doc", "", "document whose table of results is to be replaced")
	_ = flags.Parse(os.Args[1:]) // it exits on an error
	if o.starts < 0 {
		o.starts = 2 * o.rounds
	}
	exit(run(ctx, o))
}

// shared defines the flags that a comparison of two binaries has as well.
func (o *options) shared(flags *flag.FlagSet) {
	flags.StringVar(&o.works, "works", "", "only works whose names start so, with commas between")
	flags.StringVar(&o.rpc, "rpc", "testdata/rpc", "`folder` of the recorded RPCs")
	flags.DurationVar(&o.turn, "turn", time.Second, "how long a turn is")
	flags.StringVar(&o.fixtures, "fixtures", "",
		"`folder` where sealed histories are kept for later runs (default: one in the user's cache folder)")
}

func exit(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options) error {
	mixed := mixedHistory()
	works, err := newWorks(o, mixed)
	if err != nil {
		return err
	}
	fix, err := localFixture(ctx, o, o.proxy, mixed)
	if err != nil {
		return err
	}
	field, err := startField(ctx, o, works, fix)
	if err != nil {
		return err
	}
	defer field.stop()
	results, err := field.measure(ctx, o)
	if err != nil {
		return err
	}
	if o.starts > 0 && chosen(o.works, coldWork) {
		if results.cold, err = coldCases(ctx, o, fix, mixed); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := plotted(o.plot, results); err != nil {
			return err
		}
	}
	if o.doc != "" {
		if results.machine, err = machine(ctx, o.proxy); err != nil {
			return err
		}
		if err := results.document(o.doc); err != nil {
			return err
		}
	}
	results.table(os.Stdout)
	results.coldTable(os.Stdout)
	results.telemetryTable(os.Stdout)
	results.ratios(os.Stdout)
	results.lines(os.Stdout)
	results.coldLines(os.Stdout)
	return nil
}

func chosen(list, name string) bool {
	if list == "" {
		return true
	}
	for part := range strings.SplitSeq(list, ",") {
		if strings.HasPrefix(name, part) {
			return true
		}
	}
	return false
}
