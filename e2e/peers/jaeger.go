package peers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
)

// Jaeger is a running all-in-one with its traces in memory.
type Jaeger struct {
	*Process
	// OTLPGRPC and OTLPHTTP are the URLs to send traces to.
	OTLPGRPC, OTLPHTTP string
	// Query is the base URL of its query API. One that was built here answers only that; one from a release has the UI there too.
	Query string
	// HasUI reports whether it has the real UI.
	HasUI bool
}

// JaegerOptions says what StartJaeger starts.
type JaegerOptions struct {
	// Binary is an all-in-one. Empty: what JAEGER_BIN names, else jaeger-all-in-one on PATH, else the one in the cache, which is
	// built if need be.
	Binary string
	// QueryPort is where the query API serves. 0: a free one.
	QueryPort int
	// Log gets what Jaeger and a build of it write. nil: nobody.
	Log io.Writer
}

// FindJaeger returns a released all-in-one from JAEGER_BIN or PATH, which has the UI that a build lacks; empty if there is none.
func FindJaeger() string {
	if bin := os.Getenv("JAEGER_BIN"); bin != "" {
		return bin
	}
	bin, err := exec.LookPath("jaeger-all-in-one")
	if err != nil {
		return ""
	}
	return bin
}

// StartJaeger starts Jaeger and returns once it answers.
func StartJaeger(ctx context.Context, opts JaegerOptions) (*Jaeger, error) {
	j := &Jaeger{}
	if opts.Binary == "" {
		opts.Binary = FindJaeger()
		j.HasUI = opts.Binary != ""
	}
	if opts.Binary == "" {
		bin, err := BuildJaeger(ctx, opts.Log)
		if err != nil {
			return nil, err
		}
		opts.Binary = bin
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	ports, err := FreePorts(6)
	if err != nil {
		return nil, err
	}
	if opts.QueryPort != 0 {
		ports[2] = opts.QueryPort
	}
	addr := func(i int) string { return hostPort(ports[i]) }
	j.OTLPGRPC, j.OTLPHTTP, j.Query = "http://"+addr(0), "http://"+addr(1), "http://"+addr(2)
	cmd := exec.Command(opts.Binary,
		"--collector.otlp.grpc.host-port", addr(0),
		"--collector.otlp.http.host-port", addr(1),
		"--query.http-server.host-port", addr(2),
		"--query.grpc-server.host-port", addr(3),
		"--admin.http.host-port", addr(4),
		"--collector.grpc-server.host-port", addr(5),
		"--collector.http-server.host-port", Host+":0",
		"--memory.max-traces", "10000",
		"--log-level", "error",
	)
	// Without the sampler Jaeger traces itself, and waits for its own exporter when it ends.
	cmd.Env = append(os.Environ(), "SPAN_STORAGE_TYPE=memory", "OTEL_TRACES_SAMPLER=always_off")
	if j.Process, err = Start("jaeger", cmd, opts.Log); err != nil {
		return nil, err
	}
	j.Address, j.UIAddress = addr(0), j.Query
	if err := j.await(ctx, func(ctx context.Context) error { return answers(ctx, j.Query+"/api/services") }); err != nil {
		j.Stop()
		return nil, err
	}
	return j, nil
}

// answers reports whether a page is there.
func answers(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", req.URL, resp.Status)
	}
	return nil
}
