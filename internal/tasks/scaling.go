package tasks

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
)

const (
	// scalingTimeout bounds the question whether the server suggests numbers of pollers.
	scalingTimeout = 2 * time.Second
	maxScaling     = 10_000
)

// keepPollers returns the server's own suggestion, or one to leave the number of pollers as it is. Autoscaled workers take
// an answer without a task for a sign that there are too many pollers, but here the proxy has kept the task from them.
// Only servers that make suggestions get one: a worker that has seen one expects more, and would never have more pollers
// again where there are none.
func (t *Tasks) keepPollers(out context.Context, call Call, suggested *taskqueuepb.PollerScalingDecision) *taskqueuepb.PollerScalingDecision {
	if suggested == nil && t.suggestsPollers(out, call) {
		return &taskqueuepb.PollerScalingDecision{}
	}
	return suggested
}

// suggestsPollers reports whether the server suggests numbers of pollers in the call's namespace. It is asked once; until
// it has answered, other callers get false.
func (t *Tasks) suggestsPollers(out context.Context, call Call) bool {
	namespace := call.namespace()
	suggests, known := t.scaling.get(namespace)
	if known {
		return suggests
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(out), scalingTimeout)
	defer cancel()
	a, err := call.client().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	if err != nil {
		t.scaling.forget(namespace)
		return false
	}
	if suggests = a.GetNamespaceInfo().GetCapabilities().GetPollerAutoscaling(); !suggests {
		system, err := call.client().GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest))
		suggests = err == nil && versionSuggestsPollers(system.GetServerVersion())
	}
	t.scaling.put(namespace, suggests)
	return suggests
}

// versionSuggestsPollers reports whether a server of this version suggests numbers of pollers even if it does not say so.
func versionSuggestsPollers(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 1 || minor >= 29)
}

// scaling records in which namespaces the server suggests numbers of pollers.
type scaling struct {
	mu    sync.Mutex
	known map[string]bool
}

// get records that its caller asks the server, if no call has asked before.
func (s *scaling) get(namespace string) (suggests, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if suggests, known = s.known[namespace]; known {
		return suggests, true
	}
	if len(s.known) >= maxScaling {
		clear(s.known)
	}
	s.known[strings.Clone(namespace)] = false
	return false, false
}

func (s *scaling) put(namespace string, suggests bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[strings.Clone(namespace)] = suggests
}

func (s *scaling) forget(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, namespace)
}
