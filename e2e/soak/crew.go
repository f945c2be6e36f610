package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nexus-rpc/sdk-go/nexus"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporalnexus"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

const (
	nexusNow, nexusLater = 11, 12 // what the two operations count

	crewSize   = 3
	cacheSize  = 60 // workflows that workers remember: fewer than run, so that histories are replayed too
	maxPollers = 4
)

// crew is all that is connected to the balancer: workers, and the clients of the load.
type crew struct {
	workers []worker.Worker
	clients []client.Client // of the load
	all     []client.Client
}

func dial(ctx context.Context, address, namespace string) (client.Client, error) {
	return client.DialContext(ctx, client.Options{HostPort: address, Namespace: namespace, ContextPropagators: []workflow.ContextPropagator{propagator{}},
		// SDKs log failures, and each call that is tried again: what matters of that is counted.
		Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
}

// muster starts the workers, each with a connection of its own, and the clients, at the addresses that they are to use.
func muster(ctx context.Context, clients, workers string) (*crew, error) {
	c := new(crew)
	connect := func(address, namespace string) (client.Client, error) {
		made, err := dial(ctx, address, namespace)
		if err == nil {
			c.all = append(c.all, made)
		}
		return made, err
	}
	for range crewSize {
		loads, err := connect(clients, namespace)
		if err != nil {
			return c, err
		}
		c.clients = append(c.clients, loads)
		works, err := connect(workers, namespace)
		if err != nil {
			return c, err
		}
		w := worker.New(works, taskQueue, workerOptions())
		registerWorkflows(w)
		(&activities{finish: finisher(ctx, loads)}).register(w)
		handles, err := connect(workers, handlerSpace)
		if err != nil {
			return c, err
		}
		h := worker.New(handles, taskQueue, workerOptions())
		if err := registerService(h); err != nil {
			return c, err
		}
		for _, w := range []worker.Worker{w, h} {
			if err := w.Start(); err != nil {
				return c, err
			}
			c.workers = append(c.workers, w)
		}
	}
	return c, nil
}

func workerOptions() worker.Options {
	return worker.Options{MaxConcurrentWorkflowTaskPollers: maxPollers, MaxConcurrentActivityTaskPollers: maxPollers, MaxConcurrentNexusTaskPollers: 2,
		MaxHeartbeatThrottleInterval: 50 * time.Millisecond, DefaultHeartbeatThrottleInterval: 50 * time.Millisecond}
}

// dismiss stops the workers and hangs up.
func (c *crew) dismiss() {
	done := make(chan struct{})
	for _, w := range c.workers {
		go func() {
			w.Stop()
			done <- struct{}{}
		}()
	}
	for range c.workers {
		<-done
	}
	for _, made := range c.all {
		made.Close()
	}
}

// registerService answers Nexus operations: one at once, one by a workflow.
func registerService(w worker.Worker) error {
	s := nexus.NewService(serviceName)
	err := s.Register(
		nexus.NewSyncOperation("now", func(_ context.Context, in doc, _ nexus.StartOperationOptions) (doc, error) {
			return doc{Secret: in.Secret, N: step(in.N, nexusNow)}, nil
		}),
		temporalnexus.NewWorkflowRunOperation("later", handler, func(_ context.Context, _ doc, o nexus.StartOperationOptions) (client.StartWorkflowOptions, error) {
			return client.StartWorkflowOptions{ID: "nexus-" + o.RequestID}, nil
		}),
	)
	if err != nil {
		return err
	}
	w.RegisterNexusService(s)
	w.RegisterWorkflowWithOptions(handler, workflow.RegisterOptions{Name: "Handler"})
	return nil
}

func handler(ctx workflow.Context, in doc) (doc, error) {
	if in.Secret == "" {
		return doc{}, errors.New("the input did not arrive")
	}
	if err := workflow.Sleep(ctx, 20*time.Millisecond); err != nil {
		return doc{}, err
	}
	return doc{Secret: in.Secret, N: step(in.N, nexusLater)}, nil
}

// makeEndpoint makes the endpoint of the service.
func makeEndpoint(ctx context.Context, direct client.Client) error {
	_, err := direct.OperatorService().CreateNexusEndpoint(ctx, &operatorservice.CreateNexusEndpointRequest{Spec: &nexuspb.EndpointSpec{Name: endpointName,
		Target: &nexuspb.EndpointTarget{Variant: &nexuspb.EndpointTarget_Worker_{Worker: &nexuspb.EndpointTarget_Worker{Namespace: handlerSpace, TaskQueue: taskQueue}}}}})
	return err
}
