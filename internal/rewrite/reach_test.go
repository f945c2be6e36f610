package rewrite

import (
	"context"
	"errors"
	"strings"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// TestReach: what acts in another namespace is refused to callers that do not get there, in shadow mode too, which is about the
// policy. Callers without such a bound are not asked.
func TestReach(t *testing.T) {
	signal := func(namespace string) []byte {
		return bytesOf(t, &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace, TaskToken: []byte("t"), Commands: []*commandpb.Command{{
			CommandType: enumspb.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION, Attributes: &commandpb.Command_SignalExternalWorkflowExecutionCommandAttributes{
				SignalExternalWorkflowExecutionCommandAttributes: &commandpb.SignalExternalWorkflowExecutionCommandAttributes{Namespace: namespace, SignalName: "s"}}}}})
	}
	mine := func(namespace string) bool { return strings.HasPrefix(namespace, "clinic-") }
	for _, shadow := range []bool{false, true} {
		r := newRewriter(t, sealAll)
		r.shadow = shadow
		for _, c := range []struct {
			namespace string
			reaches   func(string) bool
			refused   bool
		}{
			{"", mine, false}, {testNamespace, mine, false}, {"clinic-test", mine, false}, {"billing", mine, true}, {"billing", nil, false},
		} {
			call := r.call(r.Method(service + "RespondWorkflowTaskCompleted"))
			call.Restrict(c.reaches)
			_, err := call.Request(context.Background(), signal(c.namespace))
			call.Done()
			var e *Error
			if refused := errors.As(err, &e) && e.Kind == KindDenied; refused != c.refused || !refused && err != nil {
				t.Errorf("shadow %v, a signal to %q: %v", shadow, c.namespace, err)
			}
		}
		// The next call with the same buffers is another caller's.
		call := r.call(r.Method(service + "RespondWorkflowTaskCompleted"))
		if _, err := call.Request(context.Background(), signal("billing")); err != nil {
			t.Errorf("the bound outlived its call: %v", err)
		}
		call.Done()
	}
}
