package snapshots

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// result is what a run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

// said is all that the program wrote.
func (r result) said() string { return r.stdout + r.stderr }

// program runs the built binary in a folder.
type program struct {
	bin, dir string
	env      []string // NAME=value, over the environment of the test
}

func newProgram(t *testing.T, env ...string) program {
	t.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	return program{bin, t.TempDir(), append([]string{"AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "NO_COLOR=1"}, env...)}
}

// write makes a file in the program's folder.
func (p program) write(t *testing.T, file, text string) {
	t.Helper()
	write(t, filepath.Join(p.dir, file), text)
}

func (p program) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.bin, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), p.env...)
	return cmd
}

// run waits for the program's end, for half a minute at most.
func (p program) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return finish(ctx, t, p.command(ctx, args...))
}

// finish runs a command and returns what it left. A command that ctx ended is an error.
func finish(ctx context.Context, t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v, %v\n%s", cmd.Args, err, ctx.Err(), stderr.String())
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// start starts a proxy for an upstream, and a client of it.
func start(t *testing.T, o harness.ProxyOptions) (*harness.Proxy, *grpc.ClientConn) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	proxy, err := harness.StartProxy(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Kill)
	return proxy, dial(t, proxy.Address)
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a client has nothing to lose
	return conn
}

// freeAddress returns an address of loopback that nothing listens on. Its port is below those that systems give out by
// themselves, so that no other test gets it meanwhile.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close() // it was only tried
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// until waits until a condition holds, for 20 seconds at most.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("%s: not within 20 seconds", what)
}
