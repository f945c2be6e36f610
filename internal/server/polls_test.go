package server

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	namespacepb "go.temporal.io/api/namespace/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// switched is a key service that can be cut off.
type switched struct {
	crypto.Provider
	off *atomic.Bool
}

var errCut = errors.New("cut off")

func (s switched) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) ([]byte, []byte, error) {
	if s.off.Load() {
		return nil, nil, errCut
	}
	return s.Provider.GenerateDataKey(ctx, kc)
}

func (s switched) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	if s.off.Load() {
		return nil, errCut
	}
	return s.Provider.UnwrapDataKey(ctx, wrapped, kc)
}

func keyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	return file
}

// switchable gives a proxy a key in a file that can be cut off.
func switchable(t *testing.T, file string, off *atomic.Bool) func(*Options) {
	return func(o *Options) {
		keys, err := keyring.New(t.Context(), keyring.Options{Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file}}, Log: o.Log,
			Open: func(ctx context.Context, uri string) (crypto.Provider, error) {
				p, err := localkey.Open(ctx, uri)
				return switched{p, off}, err
			}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(keys.Close)
		engine, err := policy.NewEngine(t.Context(), policy.Options{Shipped: []byte(sealAll), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
		if err != nil {
			t.Fatal(err)
		}
		if o.Rewriter, err = rewrite.New(rewrite.Options{Keys: keys, Policy: engine, Log: o.Log}); err != nil {
			t.Fatal(err)
		}
		o.Keys = keys
	}
}

// startBraked serves a proxy whose key is out of reach, and whose server suggests numbers of pollers.
func startBraked(t *testing.T) (*proxied, *frontend) {
	t.Helper()
	r := startRegistry(t, func(context.Context, string) error { return nil })
	r.namespace = &namespacepb.NamespaceInfo{Capabilities: &namespacepb.NamespaceInfo_Capabilities{PollerAutoscaling: true}}
	off := new(atomic.Bool)
	off.Store(true)
	return startProxy(t, r.frontend, switchable(t, keyFile(t), off)), r.frontend
}

// TestAHeldPollTakesNoPollerAway: an empty answer alone would cost an autoscaled worker one.
func TestAHeldPollTakesNoPollerAway(t *testing.T) {
	t.Parallel()
	p, _ := startBraked(t)
	c := p.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	activity, err := c.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if err != nil || activity.PollerScalingDecision == nil || activity.PollerScalingDecision.PollRequestDeltaSuggestion != 0 {
		t.Errorf("%v, %v", activity, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	workflow, err := c.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "clinic", PollerGroupId: "g"})
	if err != nil || workflow.PollerScalingDecision == nil || workflow.PollerGroupId != "g" {
		t.Errorf("%v, %v", workflow, err)
	}
}

func TestControlQueuesAreNotHeld(t *testing.T) {
	t.Parallel()
	p, f := startBraked(t)
	ctx, start := testContext(t), time.Now()
	_, err := p.client(t).PollNexusTaskQueue(ctx, &workflowservice.PollNexusTaskQueueRequest{Namespace: "clinic",
		TaskQueue: &taskqueuepb.TaskQueue{Name: "temporal-sys/worker-commands/clinic/a"}})
	calls := f.calls()
	if err == nil || !slices.Contains(calls, workflowservice.WorkflowService_PollNexusTaskQueue_FullMethodName) { // the frontend does not have it
		t.Errorf("the upstream was asked for %v; %v", calls, err)
	}
	if took := time.Since(start); took > 900*time.Millisecond {
		t.Errorf("it waited %s for a key", took)
	}
}
