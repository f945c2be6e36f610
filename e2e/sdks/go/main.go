// Command go is a worker and a client of the Go SDK as anybody would write them: it does not know about encryption, and all
// that it is told of the way to the server is an address. It runs the scenarios that it is told to on standard input and
// prints what an application saw of each.
//
//	go ADDRESS NAMESPACE TASK-QUEUE
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// program is what the scenarios share.
type program struct {
	client           client.Client
	worker           worker.Worker
	namespace, queue string
}

// run is one scenario at work.
type run struct {
	*program
	name  string
	lines []string
}

func main() {
	if len(os.Args) != 4 {
		fatal("usage: go ADDRESS NAMESPACE TASK-QUEUE")
	}
	c, err := client.Dial(client.Options{
		HostPort: os.Args[1], Namespace: os.Args[2],
		ContextPropagators: []workflow.ContextPropagator{userHeader{}},
		// The SDK logs failures, which the scenarios are full of.
		Logger: sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
	})
	if err != nil {
		fatal("connect: " + err.Error())
	}
	p := &program{client: c, namespace: os.Args[2], queue: os.Args[3]}
	if err := p.startWorker(); err != nil {
		fatal("start the worker: " + err.Error())
	}
	answer := json.NewEncoder(os.Stdout)
	_ = answer.Encode(map[string]string{"ready": "go.temporal.io/sdk " + temporal.SDKVersion})
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		name, argument, _ := strings.Cut(in.Text(), " ")
		r := &run{program: p, name: name}
		reply := map[string]any{"scenario": name}
		if err := r.do(argument); err != nil {
			reply["error"] = err.Error()
		}
		reply["lines"] = r.lines
		_ = answer.Encode(reply)
	}
	p.worker.Stop()
	c.Close()
}

func (r *run) do(argument string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if r.name == "cross" {
		return r.cross(ctx, argument)
	}
	scenario, ok := scenarios[r.name]
	if !ok {
		return fmt.Errorf("there is no scenario %q", r.name)
	}
	return scenario(r, ctx)
}

func (p *program) startWorker() error {
	p.worker = worker.New(p.client, p.queue, worker.Options{
		MaxHeartbeatThrottleInterval: 200 * time.Millisecond, DefaultHeartbeatThrottleInterval: 200 * time.Millisecond,
	})
	register(p.worker)
	return p.worker.Start()
}

// print adds a line of what the application saw.
func (r *run) print(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

// secret is user data of this scenario.
func (r *run) secret(what string) string { return secret(r.queue, r.name+"/"+what) }

// start starts a workflow.
func (r *run) start(ctx context.Context, o client.StartWorkflowOptions, name string, args ...any) (client.WorkflowRun, error) {
	o.TaskQueue = r.queue
	if o.ID == "" {
		o.ID = r.id(name)
	}
	return r.client.ExecuteWorkflow(ctx, o, name, args...)
}

func (r *run) id(name string) string { return r.queue + "-" + r.name + "-" + name }

// result runs a workflow to its end.
func (r *run) result(ctx context.Context, to any, name string, args ...any) error {
	w, err := r.start(ctx, client.StartWorkflowOptions{}, name, args...)
	if err != nil {
		return err
	}
	return w.Get(ctx, to)
}

// secret makes the text that stands for user data at a place. It follows from the task queue's name and the place alone, so
// that workflows can make it anew at each replay, and whoever searches for it needs not be told.
func secret(queue, place string) string {
	const letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	const prime = 16777619
	hash := uint32(2166136261)
	for _, b := range []byte(queue + "/" + place) {
		hash = (hash ^ uint32(b)) * prime
	}
	text := make([]byte, 32)
	for i := range text {
		hash = (hash ^ uint32(i)) * prime
		text[i] = letters[hash>>16%uint32(len(letters))]
	}
	return string(text)
}

func fatal(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(1)
}
