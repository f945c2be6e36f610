// Package capture records RPCs of the Go SDK with a real Temporal server, without a proxy between them. The unit tests
// of the rewriter seal and open the recorded bytes (testdata/rpc):
//
//	go test ./capture -args -record ../../testdata/rpc
//
// Without the flag the same run writes into a folder of its own, to show that recording still works.
package capture

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

var recordTo = flag.String("record", "", "folder to write the recorded RPCs to; what it holds of an earlier recording is replaced")

const (
	namespace = "clinic-prod"
	taskQueue = "treatments"
	// mark is in every piece of fake data that must not be left in clear.
	mark = "CANARY-"
	// identity takes the place of the process id and host name that SDKs tell.
	identity = "clinic-worker"

	mostFiles, mostBytes = 40, 200 << 10
)

func TestRecord(t *testing.T) {
	dir := *recordTo
	if dir == "" {
		dir = t.TempDir()
	}
	r := &recorder{exchanges: map[string][]exchange{}}
	c := connect(t, r)
	// A sticky queue is named after the host. Without it every task also comes with the whole history.
	worker.SetStickyWorkflowCacheSize(0)
	w := worker.New(c, taskQueue, worker.Options{Identity: identity, BuildID: "1",
		DefaultHeartbeatThrottleInterval: 50 * time.Millisecond, MaxHeartbeatThrottleInterval: 50 * time.Millisecond})
	register(t, w)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	useAll(ctx, t, c)

	clean(t, dir)
	files, size, err := r.write(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files, %d bytes", files, size)
	if files > mostFiles || size > mostBytes {
		t.Errorf("%d files of %d bytes are more than belongs into the repository (%d, %d)", files, size, mostFiles, mostBytes)
	}
	complete(t, r)
	nothingOfThisMachine(t, dir)
}

func connect(t *testing.T, r *recorder) client.Client {
	t.Helper()
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{namespace}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.DialContext(t.Context(), client.Options{
		HostPort: server.Address, Namespace: namespace, Identity: identity,
		WorkerHeartbeatInterval: -1, // they describe the host
		ContextPropagators:      []workflow.ContextPropagator{patientPropagator{}},
		ConnectionOptions:       client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(r.intercept)}},
		Logger:                  sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// complete fails if a method that the run is there to record is missing.
func complete(t *testing.T, r *recorder) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, method := range []string{
		"StartWorkflowExecution", "SignalWorkflowExecution", "SignalWithStartWorkflowExecution", "UpdateWorkflowExecution", "QueryWorkflow",
		"PollWorkflowTaskQueue", "RespondWorkflowTaskCompleted", "RespondQueryTaskCompleted", "PollActivityTaskQueue",
		"RecordActivityTaskHeartbeat", "RespondActivityTaskCompleted", "RespondActivityTaskFailed", "DescribeWorkflowExecution",
		"GetWorkflowExecutionHistory", "TerminateWorkflowExecution", "CreateSchedule", "DescribeSchedule", "StartBatchOperation",
		"PollNexusTaskQueue", "RespondNexusTaskCompleted",
	} {
		if len(r.exchanges[method]) == 0 {
			t.Errorf("no %s with a payload was recorded", method)
		}
	}
}

// clean removes what an earlier recording left.
func clean(t *testing.T, dir string) {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(dir, "*.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// nothingOfThisMachine searches the recording for names that nobody else should read.
func nothingOfThisMachine(t *testing.T, dir string) {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"@" + host, host + ":", home, here, "goroutine "} {
			if bytes.Contains(b, []byte(name)) {
				t.Errorf("%s holds %q", filepath.Base(file), name)
			}
		}
	}
}
