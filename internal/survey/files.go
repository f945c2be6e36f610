package survey

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	exportpb "go.temporal.io/api/export/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// File searches saved histories: one in JSON, as `temporal workflow show --output json` prints it, or an export of many in
// JSON or in protobuf. where names the file for reports.
func (s *Survey) File(ctx context.Context, namespace, where string, data []byte) error {
	histories, err := readHistories(data)
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	for i, h := range histories {
		info := started(h, fmt.Sprintf("%s#%d", where, i))
		if s.Want(namespace, info) {
			s.Look(ctx, &scan.Answer{Namespace: namespace, Where: where, Workflow: info,
				Message: &workflowservice.GetWorkflowExecutionHistoryResponse{History: h}})
		}
	}
	return nil
}

// started returns what the first event of a history says about its workflow. run stands for the id of the run.
func started(h *historypb.History, run string) *workflowpb.WorkflowExecutionInfo {
	info := &workflowpb.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{RunId: run}}
	if events := h.GetEvents(); len(events) > 0 {
		a := events[0].GetWorkflowExecutionStartedEventAttributes()
		info.Execution.WorkflowId, info.Type, info.TaskQueue = a.GetWorkflowId(), a.GetWorkflowType(), a.GetTaskQueue().GetName()
	}
	return info
}

// readHistories reads the histories of a file.
func readHistories(data []byte) ([]*historypb.History, error) {
	trimmed := bytes.TrimSpace(data)
	if len(trimmed) == 0 {
		return nil, errors.New("it is empty")
	}
	var export exportpb.WorkflowExecutions
	if trimmed[0] != '{' {
		if proto.Unmarshal(data, &export) != nil || len(export.GetItems()) == 0 {
			return nil, errors.New("it is neither JSON nor an export of histories in protobuf")
		}
		return items(&export), nil
	}
	options := temporalproto.CustomJSONUnmarshalOptions{DiscardUnknown: true}
	var one historypb.History
	if options.Unmarshal(trimmed, &one) != nil { // the parser's error may quote the document
		return nil, errors.New("it is not a history in JSON; save one with: temporal workflow show --output json")
	}
	if len(one.GetEvents()) > 0 {
		return []*historypb.History{&one}, nil
	}
	if err := options.Unmarshal(trimmed, &export); err != nil || len(export.GetItems()) == 0 {
		return nil, errors.New("it has no events; save a history with: temporal workflow show --output json")
	}
	return items(&export), nil
}

func items(export *exportpb.WorkflowExecutions) []*historypb.History {
	var all []*historypb.History
	for _, item := range export.GetItems() {
		all = append(all, item.GetHistory())
	}
	return all
}
