package server

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// Autoscaled workers take an answer without a task for a sign that there are too many pollers, unless it says that their
// number is to stay as it is. It is not: the proxy has kept the task from them.

// scalingTimeout bounds the question whether the server suggests numbers of pollers.
const scalingTimeout = 2 * time.Second

// unchanged is the server's own suggestion, or one to leave the number of pollers as it is, from servers that make
// suggestions: a worker that has seen one expects more, and where there are none it would never have more pollers again.
func (c *call) unchanged(out context.Context, suggested *taskqueuepb.PollerScalingDecision) *taskqueuepb.PollerScalingDecision {
	if suggested == nil && c.autoscales(out) {
		return &taskqueuepb.PollerScalingDecision{}
	}
	return suggested
}

// autoscales tells if the server suggests numbers of pollers in the call's namespace. It is asked once; who wants to
// know meanwhile is told no.
func (c *call) autoscales(out context.Context) bool {
	namespace := c.rewriting.Namespace()
	autoscales, known := c.server.scaling.get(namespace)
	if known {
		return autoscales
	}
	a := new(workflowservice.DescribeNamespaceResponse)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(out), scalingTimeout)
	defer cancel()
	if err := c.server.fetch(ctx, c.route, "DescribeNamespace", &workflowservice.DescribeNamespaceRequest{Namespace: namespace}, a); err != nil {
		c.server.scaling.forget(namespace)
		return false
	}
	if autoscales = a.GetNamespaceInfo().GetCapabilities().GetPollerAutoscaling(); !autoscales {
		system := new(workflowservice.GetSystemInfoResponse)
		autoscales = c.server.fetch(ctx, c.route, "GetSystemInfo", new(workflowservice.GetSystemInfoRequest), system) == nil && suggestsPollers(system.GetServerVersion())
	}
	c.server.scaling.put(namespace, autoscales)
	return autoscales
}

// suggestsPollers tells if a server of this version is known to suggest numbers of pollers, whether it says so or not.
func suggestsPollers(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 1 || minor >= 29)
}

// scaling is in which namespaces the server suggests numbers of pollers.
type scaling struct {
	mu    sync.Mutex
	known map[string]bool
}

const maxScaling = 10_000

// get notes that it was asked for, so that one caller alone finds it out.
func (s *scaling) get(namespace string) (autoscales, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if autoscales, known = s.known[namespace]; known {
		return autoscales, true
	}
	if s.known == nil || len(s.known) >= maxScaling {
		s.known = map[string]bool{}
	}
	s.known[strings.Clone(namespace)] = false
	return false, false
}

func (s *scaling) put(namespace string, autoscales bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[strings.Clone(namespace)] = autoscales
}

func (s *scaling) forget(namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, namespace)
}
