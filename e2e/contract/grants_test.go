package contract

import (
	"fmt"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
)

func historyWith(p *commonpb.Payload) *workflowservice.GetWorkflowExecutionHistoryResponse {
	return &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{
		{EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: list(p)}}}}}}
}

// Under the policy that ships, a grant is enough to open what another namespace sealed; without one the error names both
// namespaces and the grant. A realm changes nothing for its own namespaces.
func TestAGrantIsEnough(t *testing.T) {
	t.Parallel()
	for _, realm := range []string{"", "realm: eu\n"} {
		r := start(t, setup{extra: realm + "grants: [{from: writer, to: reader}]\n"})
		clear := text("CANARY")
		for _, c := range []struct {
			sealedIn, openedIn string
			opens              bool
		}{
			{"writer", "writer", true}, {"writer", "reader", true}, {"reader", "writer", false}, {"writer", "other", false},
		} {
			name := fmt.Sprintf("%ssealed in %q and read in %q", realm, c.sealedIn, c.openedIn)
			sealed := r.seal(t, c.sealedIn, clear)[0]
			e := r.send(t, "GetWorkflowExecutionHistory",
				&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: c.openedIn, Execution: execution("w")},
				reply("GetWorkflowExecutionHistory", historyWith(sealed)))
			if c.opens {
				equal(t, name, answered(t, e, new(workflowservice.GetWorkflowExecutionHistoryResponse)), historyWith(clear))
				continue
			}
			e.want(t, "PermissionDenied")
			grant := fmt.Sprintf("{from: %q, to: %q}", c.sealedIn, c.openedIn)
			if text := e.Status.GetMessage(); !strings.Contains(text, grant) || strings.Contains(text, "CANARY") {
				t.Errorf("%s: the error does not name the grant %s: %s", name, grant, text)
			}
		}
	}
}
