// Command peers builds the programs that tests run against into the user's cache folder: all of them, or those that are
// named. A program that is there already costs nothing.
//
//	peers [temporal] [jaeger] [cli] [helm] [moto]
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

var builds = map[string]func(context.Context, io.Writer) (string, error){
	"temporal": peers.BuildTemporal, "jaeger": peers.BuildJaeger, "cli": peers.BuildCLI, "helm": peers.BuildHelm,
	"moto": harness.InstallMoto,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	names := os.Args[1:]
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(builds))
	}
	for _, name := range names {
		build, ok := builds[name]
		if !ok {
			exit(fmt.Errorf("%q is none of: %s", name, strings.Join(slices.Sorted(maps.Keys(builds)), ", ")))
		}
		path, err := build(ctx, os.Stderr)
		if err != nil {
			exit(err)
		}
		fmt.Printf("%-8s %s\n", name, path)
	}
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, "peers:", err)
	os.Exit(1)
}
