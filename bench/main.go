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
}

func main() {
	// The frontend and the small proxies are this same program, told by its first argument.
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			exit(role(os.Args[2:]))
		}
	}
	var o options
	flag.StringVar(&o.proxy, "proxy", "bin/proxy", "the proxy's binary")
	flag.IntVar(&o.rounds, "rounds", 5, "turns that each variant takes at each work; the median counts")
	flag.DurationVar(&o.turn, "turn", time.Second, "how long a turn is")
	flag.StringVar(&o.variants, "variants", "", "only these, with commas between; direct and relay are always there")
	flag.StringVar(&o.works, "works", "", "only works whose names start so, with commas between")
	flag.StringVar(&o.plot, "plot", "", "file for a plot in SVG")
	flag.StringVar(&o.doc, "doc", "", "document whose table of results is to be replaced")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, o))
}

func exit(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options) error {
	field, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer field.stop()
	results, err := field.measure(ctx, o)
	if err != nil {
		return err
	}
	if o.plot != "" {
		if err := plotted(o.plot, results); err != nil {
			return err
		}
	}
	if o.doc != "" {
		if err := results.document(o.doc); err != nil {
			return err
		}
	}
	results.table(os.Stdout)
	results.ratios(os.Stdout)
	results.lines(os.Stdout)
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
