package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TemporalOptions says what StartTemporal starts. The zero value is a server in memory with the namespace default.
type TemporalOptions struct {
	// Binary is a temporalserver of this repository, or the Temporal CLI: one from a release with the name `temporal`, or what
	// BuildCLI gave. Empty: what TEMPORAL_SERVER_BIN names, else the one in the cache, which is built if need be.
	Binary string
	// DBFile is the SQLite file. Empty: in memory.
	DBFile string
	// Port and UIPort are fixed ports, for a server that is to come back where it was. 0: free ones.
	Port, UIPort int
	// UI serves the Web UI as well.
	UI bool
	// CodecEndpoint is the codec server that the Web UI uses.
	CodecEndpoint string
	// Namespaces are created before the server starts. None: default.
	Namespaces []string
	// DynamicConfig overrides server settings, e.g. "frontend.sendRawWorkflowHistory": true.
	DynamicConfig map[string]any
	// SearchAttributes are custom ones, name to type (Keyword, Text, Int, Double, Bool, Datetime, KeywordList).
	SearchAttributes map[string]string
	// Log gets what the server and a build of it write. nil: nobody.
	Log io.Writer
}

// readyTime bounds a server's start; one that is already built takes a second or two.
const readyTime = 90 * time.Second

// StartTemporal starts a Temporal server and returns once its frontend serves all of its namespaces.
func StartTemporal(ctx context.Context, opts TemporalOptions) (*Process, error) {
	if opts.Binary == "" {
		opts.Binary = os.Getenv("TEMPORAL_SERVER_BIN")
	}
	if opts.Binary == "" {
		bin, err := BuildTemporal(ctx, opts.Log)
		if err != nil {
			return nil, err
		}
		opts.Binary = bin
	}
	if len(opts.Namespaces) == 0 {
		opts.Namespaces = []string{"default"}
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	start := startOwn
	if name := strings.TrimSuffix(filepath.Base(opts.Binary), ".exe"); name == cli.name {
		start = startCLI
	}
	for try := 1; ; try++ {
		p, err := start(ctx, opts)
		if err == nil {
			if err = p.await(ctx, func(ctx context.Context) error { return p.describe(ctx, opts.Namespaces) }); err == nil {
				return p, nil
			}
			p.Stop()
		}
		// A server looks for free ports of its own, and others may take them before it listens.
		if try == 3 || !strings.Contains(err.Error(), "address already in use") {
			return nil, err
		}
	}
}

// startOwn starts this repository's temporalserver, which prints its addresses when it is ready.
func startOwn(ctx context.Context, opts TemporalOptions) (*Process, error) {
	args := []string{"--until-stdin-closes", "--port", strconv.Itoa(opts.Port)}
	if opts.DBFile != "" {
		args = append(args, "--db", opts.DBFile)
	}
	if opts.UI {
		args = append(args, "--ui", "--ui-port", strconv.Itoa(opts.UIPort), "--codec-endpoint", opts.CodecEndpoint)
	}
	shared, err := sharedFlags(opts, "--dynamic-config")
	if err != nil {
		return nil, err
	}
	return startAnnounced(ctx, "temporalserver", exec.Command(opts.Binary, append(args, shared...)...), opts.Log)
}

// startAnnounced starts a temporalserver and waits for its ready line.
func startAnnounced(ctx context.Context, name string, cmd *exec.Cmd, log io.Writer) (*Process, error) {
	stdout, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	cmd.Stdout = w
	p, err := Start(name, cmd, log)
	w.Close() // the child has its own
	if err != nil {
		return nil, err
	}
	line := make(chan []byte, 1)
	go func() {
		b, _ := bufio.NewReader(stdout).ReadBytes('\n')
		line <- b
	}()
	var ready struct{ Address, UI string }
	err = p.await(ctx, func(ctx context.Context) error {
		select {
		case b := <-line:
			return json.Unmarshal(b, &ready)
		case <-ctx.Done():
			return nil // await's own error says more
		case <-p.done:
			return errors.New("no ready line")
		}
	})
	if err == nil && ready.Address == "" {
		err = fmt.Errorf("%s was not ready in time\n%s", name, p.Output())
	}
	if err != nil {
		p.Stop()
		return nil, err
	}
	p.Address, p.UIAddress = ready.Address, ready.UI
	return p, nil
}

// StartWebUI serves the Web UI for a frontend elsewhere, such as the proxy, on a port (0: a free one). It needs this repository's
// temporalserver, which is built if need be.
func StartWebUI(ctx context.Context, frontend string, port int, log io.Writer) (*Process, error) {
	return StartWebUIWith(ctx, WebUIOptions{Frontend: frontend, Port: port, Log: log})
}

// WebUIOptions say what a Web UI is for.
type WebUIOptions struct {
	Frontend string
	Port     int // 0: a free one
	// CodecEndpoint is the codec server that the pages ask. Over https they send it the user's token.
	CodecEndpoint string
	// Issuer is the OpenID Connect issuer at which users log in. "": nobody has to.
	Issuer string
	Log    io.Writer
}

// StartWebUIWith is StartWebUI with all that there is to choose.
func StartWebUIWith(ctx context.Context, o WebUIOptions) (*Process, error) {
	log := o.Log
	bin, err := BuildTemporal(ctx, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	p, err := startAnnounced(ctx, "web UI", exec.Command(bin, "--until-stdin-closes", "--ui-for", o.Frontend, "--ui-port", strconv.Itoa(o.Port),
		"--codec-endpoint", o.CodecEndpoint, "--ui-oidc", o.Issuer), log)
	if err != nil {
		return nil, err
	}
	err = p.await(ctx, func(ctx context.Context) error { return answers(ctx, p.UIAddress) })
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// startCLI starts `temporal server start-dev`.
func startCLI(_ context.Context, opts TemporalOptions) (*Process, error) {
	ports, err := FreePorts(2)
	if err != nil {
		return nil, err
	}
	if opts.Port == 0 {
		opts.Port = ports[0]
	}
	if opts.UIPort == 0 {
		opts.UIPort = ports[1]
	}
	args := []string{"server", "start-dev", "--ip", Host, "--port", strconv.Itoa(opts.Port), "--log-level", "error"}
	if opts.DBFile != "" {
		args = append(args, "--db-filename", opts.DBFile)
	}
	if opts.UI {
		args = append(args, "--ui-ip", Host, "--ui-port", strconv.Itoa(opts.UIPort))
		if opts.CodecEndpoint != "" {
			args = append(args, "--ui-codec-endpoint", opts.CodecEndpoint)
		}
	} else {
		args = append(args, "--headless")
	}
	shared, err := sharedFlags(opts, "--dynamic-config-value")
	if err != nil {
		return nil, err
	}
	p, err := Start("temporal server start-dev", exec.Command(opts.Binary, append(args, shared...)...), opts.Log)
	if err != nil {
		return nil, err
	}
	p.Address = hostPort(opts.Port)
	if opts.UI {
		p.UIAddress = "http://" + hostPort(opts.UIPort)
	}
	return p, nil
}

// sharedFlags are those that both servers know; only the name of the dynamic config's differs.
func sharedFlags(opts TemporalOptions, dynamicConfigFlag string) ([]string, error) {
	var args []string
	for _, ns := range opts.Namespaces {
		args = append(args, "--namespace", ns)
	}
	for _, name := range slices.Sorted(maps.Keys(opts.SearchAttributes)) {
		args = append(args, "--search-attribute", name+"="+opts.SearchAttributes[name])
	}
	for _, key := range slices.Sorted(maps.Keys(opts.DynamicConfig)) {
		value, err := json.Marshal(opts.DynamicConfig[key])
		if err != nil {
			return nil, fmt.Errorf("dynamic config %s: %w", key, err)
		}
		args = append(args, dynamicConfigFlag, key+"="+string(value))
	}
	return args, nil
}

// describe asks the frontend for each namespace, and for its version.
func (p *Process) describe(ctx context.Context, namespaces []string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(p.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	frontend := workflowservice.NewWorkflowServiceClient(conn)
	info, err := frontend.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	if err != nil {
		return err
	}
	p.Version = info.GetServerVersion()
	for _, ns := range namespaces {
		if _, err := frontend.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: ns}); err != nil {
			return fmt.Errorf("namespace %s: %w", ns, err)
		}
	}
	return nil
}
