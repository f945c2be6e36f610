// Command temporalserver is a Temporal server in one process, with SQLite and, if asked for, the Web UI: the real server
// that the end-to-end tests and the demo run against. It lives in a module of its own, so that nothing of the server's
// reaches the product's dependencies.
//
// It picks free ports for what is 0, and once its frontend serves every namespace that was asked for it prints one line of JSON on
// standard output:
//
//	{"ready":true,"pid":4711,"address":"127.0.0.1:35573","ui":"http://127.0.0.1:40351"}
//
// With --until-stdin-closes it ends as soon as its standard input does. A parent that holds the other end of that pipe takes the server with
// it however it ends, kill -9 included.
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
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// host is where everything listens: this server has no authentication, so it never leaves the machine.
const host = "127.0.0.1"

type options struct {
	dbFile           string
	port, uiPort     int
	ui               bool
	uiFor            string
	codec            string
	oidc             string
	logLevel         string
	untilStdinCloses bool
	namespaces       []string
	dynamicConfig    map[string]any
	searchAttributes map[string]enumspb.IndexedValueType
}

func main() {
	opts, err := parseFlags(os.Args[1:])
	if err == nil {
		err = run(opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "temporalserver:", err)
		os.Exit(1)
	}
}

// parseFlags reads the command line. Repeatable flags collect.
func parseFlags(args []string) (options, error) {
	opts := options{
		dynamicConfig:    testLimits(),
		searchAttributes: map[string]enumspb.IndexedValueType{},
	}
	fs := flag.NewFlagSet("temporalserver", flag.ContinueOnError)
	fs.StringVar(&opts.dbFile, "db", "", "SQLite `file` (default: in memory)")
	fs.IntVar(&opts.port, "port", 0, "frontend gRPC `port` (0: a free one)")
	fs.BoolVar(&opts.ui, "ui", false, "serve the Web UI as well")
	fs.IntVar(&opts.uiPort, "ui-port", 0, "Web UI `port`, implies --ui (0: a free one)")
	fs.StringVar(&opts.uiFor, "ui-for", "", "serve nothing but the Web UI, for the frontend at this `address`")
	fs.StringVar(&opts.codec, "codec-endpoint", "", "codec server `URL` that the Web UI uses; over https it is sent the user's token")
	fs.StringVar(&opts.oidc, "ui-oidc", "", "have the users of the Web UI log in at this OpenID Connect issuer's `URL`, as client temporal-ui")
	fs.StringVar(&opts.logLevel, "log-level", "error", "debug, info, warn or error")
	fs.BoolVar(&opts.untilStdinCloses, "until-stdin-closes", false, "end when standard input ends")
	fs.Func("namespace", "`name` of a namespace to create (repeatable; default: default)", func(v string) error {
		opts.namespaces = append(opts.namespaces, v)
		return nil
	})
	fs.Func("dynamic-config", "`key=json` (repeatable)", func(v string) error {
		key, text, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("want key=json, got %q", v)
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return fmt.Errorf("the value of %s is not JSON: %w", key, err)
		}
		opts.dynamicConfig[key] = value
		return nil
	})
	fs.Func("search-attribute", "`name=type` of a custom search attribute, e.g. Ward=Keyword (repeatable)", func(v string) error {
		name, typ, _ := strings.Cut(v, "=")
		value, err := enumspb.IndexedValueTypeFromString(typ)
		if err != nil {
			return fmt.Errorf("want name=type, got %q: %w", v, err)
		}
		opts.searchAttributes[name] = value
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	if fs.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if len(opts.namespaces) == 0 {
		opts.namespaces = []string{"default"}
	}
	opts.ui = opts.ui || opts.uiPort != 0
	return opts, nil
}

// testLimits raises the rate limits that a load run meets at their defaults, and turns on what the server has but ships switched off.
// --dynamic-config overrides each.
func testLimits() map[string]any {
	return map[string]any{
		"frontend.rps":                                     100_000,
		"frontend.namespaceRPS":                            100_000,
		"frontend.namespaceRPS.visibility":                 10_000,
		"frontend.namespaceCount":                          20_000, // concurrent long polls
		"history.rps":                                      100_000,
		"matching.rps":                                     100_000,
		"history.enableChasm":                              true,
		"activity.enableStandalone":                        true,
		"nexusoperation.enableStandalone":                  true,
		"history.enableStandaloneActivityOperatorCommands": true,
	}
}

func run(opts options) error {
	start := startServer
	if opts.uiFor != "" {
		start = startUIAlone
	}
	srv, err := start(opts)
	if err != nil {
		return err
	}
	defer srv.stop()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if opts.untilStdinCloses {
		go func() {
			io.Copy(io.Discard, os.Stdin) // an error ends it just as well
			stop()
		}()
	}

	if opts.uiFor == "" {
		if err := waitReady(ctx, srv.address, opts.namespaces); err != nil {
			return err
		}
	}
	json.NewEncoder(os.Stdout).Encode(struct {
		Ready   bool   `json:"ready"`
		PID     int    `json:"pid"`
		Address string `json:"address"`
		UI      string `json:"ui,omitempty"`
	}{true, os.Getpid(), srv.address, srv.uiURL})
	<-ctx.Done()

	// The server's own stop can take long while polls are held. Nobody waits for them here.
	time.AfterFunc(10*time.Second, func() { os.Exit(0) })
	return nil
}

// waitReady returns once the frontend answers for every namespace.
func waitReady(ctx context.Context, address string, namespaces []string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	frontend := workflowservice.NewWorkflowServiceClient(conn)
	for _, ns := range namespaces {
		for {
			_, err := frontend.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: ns}, grpc.WaitForReady(true))
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("the frontend at %s does not serve namespace %s: %w", address, ns, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}
