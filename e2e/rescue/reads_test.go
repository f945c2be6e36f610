package rescue

import (
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
)

var reads = []scenario{
	{"page of history", "one payload " + never, false, "", historyWhole},
	{"list and description of workflows", "one memo " + never, false, "", listPerPayload},
}

func historyWhole(s *site) string {
	s.start(s.client, "Asking", "good")
	s.ok(s.direct.SignalWorkflow(s.Context(), s.id, "", "end", s.bad()))
	_, err := s.raw(s.proxy.Address).GetWorkflowExecutionHistory(s.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: s.id}})
	s.want(err != nil && strings.Contains(err.Error(), "temporal-seal: ") && strings.Contains(err.Error(), "it was sealed in namespace \"other\""), "the history: %v", err)
	return "the caller gets an error with the reason: workers replay histories, so they are whole or not there"
}

func listPerPayload(s *site) string {
	bad := s.bad()
	for i, c := range []client.Client{s.client, s.direct} {
		memo := map[string]any{"note": "good"}
		if i == 1 {
			memo["note"] = bad
		}
		_, err := c.ExecuteWorkflow(s.Context(), client.StartWorkflowOptions{ID: fmt.Sprint(s.id, i), TaskQueue: s.queue, Memo: memo}, "Asking")
		s.ok(err)
	}
	encoding := func(m *commonpb.Memo) string { return string(m.GetFields()["note"].GetMetadata()["encoding"]) }
	s.eventually(func() error {
		got, err := s.client.ListWorkflow(s.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("TaskQueue = '%s'", s.queue)})
		if err != nil {
			return err
		}
		seen := map[string]string{}
		for _, w := range got.GetExecutions() {
			seen[w.GetExecution().GetWorkflowId()] = encoding(w.GetMemo())
		}
		if seen[s.id+"0"] != "json/plain" || seen[s.id+"1"] != "binary/sealed.v1" {
			return fmt.Errorf("memos: %v", seen)
		}
		return nil
	})
	d, err := s.client.DescribeWorkflowExecution(s.Context(), s.id+"1", "")
	s.ok(err)
	s.want(d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING && encoding(d.GetWorkflowExecutionInfo().GetMemo()) == "binary/sealed.v1", "described: %v", d.GetWorkflowExecutionInfo())
	return "the one stays sealed, all others are opened"
}
