package tasks

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// scalingTimeout bounds the question whether the server suggests numbers of pollers.
const scalingTimeout = 2 * time.Second

// keepPollers adds to an answer without a task the suggestion to leave the number of pollers as it is,
// unless the server suggests one itself. Autoscaled workers take an empty answer for a sign that there are
// too many pollers, but here the proxy has kept the task from them. Where the server makes no suggestions
// the proxy makes none: a worker that has seen one expects more, and would never have more pollers again.
func (t *Tasks) keepPollers(out context.Context, call Call, answer protoreflect.Message) {
	decision := answer.Descriptor().Fields().ByName("poller_scaling_decision")
	if !answer.Has(decision) && t.suggestsPollers(out, call) {
		answer.Mutable(decision)
	}
}

// suggestsPollers reports whether the server suggests numbers of pollers in the call's namespace. It is
// asked once; until it has answered, other callers get false.
func (t *Tasks) suggestsPollers(out context.Context, call Call) bool {
	namespace := call.namespace()
	if suggests, known, _ := t.scaling.PeekOrAdd(strings.Clone(namespace), false); known {
		return suggests
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(out), scalingTimeout)
	defer cancel()
	a, err := call.client().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	if err != nil {
		t.scaling.Remove(namespace)
		return false
	}
	suggests := a.GetNamespaceInfo().GetCapabilities().GetPollerAutoscaling()
	if !suggests {
		system, err := call.client().GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest))
		suggests = err == nil && versionSuggestsPollers(system.GetServerVersion())
	}
	t.scaling.Add(strings.Clone(namespace), suggests)
	return suggests
}

// versionSuggestsPollers reports whether a server of this version suggests numbers of pollers even if it
// does not say so.
func versionSuggestsPollers(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 1 || minor >= 29)
}
