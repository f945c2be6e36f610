// Command demo runs the product's main story for a person to look at: a real Temporal server, the proxy, and a clinic's worker and
// client that know nothing of encryption. Afterwards it shows, for the same events, what the server stores beside what the worker
// and the client got, which verdict the policy gave, what sealing and opening took, and searches the database for clear text.
//
// It exits 0 if the server holds no secret of the story, and 1 otherwise.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/keypeers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second Ctrl-C ends at once; whatever still runs then ends with this process.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:])
	switch {
	case ctx.Err() != nil: // whatever failed then failed for that
		fmt.Fprintln(os.Stderr, "\nstopped; nothing is left running")
		if err != nil {
			os.Exit(130)
		}
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run is the demo, or one of the two programs of the clinic, which the demo starts as processes of their own.
func run(ctx context.Context, args []string) error {
	if text := os.Getenv(storyVariable); text != "" && len(args) == 2 {
		var story clinic.Story
		if err := json.Unmarshal([]byte(text), &story); err != nil {
			return fmt.Errorf("%s: %w", storyVariable, err)
		}
		if args[0] == "worker" {
			return clinic.RunWorker(args[1], story, os.Stdout)
		}
		return clinic.RunClient(ctx, args[1], story, os.Stdout)
	}
	fs := flag.NewFlagSet("demo", flag.ExitOnError)
	ui := fs.Bool("ui", false, "keep everything running, with the Web UI and Jaeger, until Ctrl-C")
	erasure := fs.Bool("erasure", false, "the second act: one of three patients is erased")
	keys := fs.String("key", "local", "`scheme` of the keys: "+strings.Join(keypeers.Schemes(), ", "))
	picture := fs.String("svg", "", "`file` for a picture of the parts that the README shows")
	fs.Parse(args)
	s := newScreen(os.Stdout)
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case *erasure:
		return runErasure(ctx, s)
	case *picture == "":
		return runDemo(ctx, s, *keys, *ui)
	}
	var printed strings.Builder
	s.w, s.tty, s.color, s.width = io.MultiWriter(os.Stdout, &printed), false, true, defaultWidth
	if err := runDemo(ctx, s, *keys, *ui); err != nil {
		return err
	}
	return writeSVG(*picture, printed.String(), s.width, partBothSides, partSecrets)
}
