package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// slot is a place of a history event that holds user data.
type slot struct {
	name    string // as a person calls it: input, result, memo desk
	payload *commonpb.Payload
	failure *failurepb.Failure // instead of a payload
}

// slotsOf finds all slots of a message, in the order of its fields.
func slotsOf(m protoreflect.Message, name string) (found []slot) {
	switch v := m.Interface().(type) {
	case *commonpb.Payload:
		return []slot{{name: name, payload: v}}
	case *failurepb.Failure:
		return []slot{{name: name, failure: v}}
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil || !m.Has(f) || f.IsMap() && f.MapValue().Message() == nil {
			continue
		}
		value, label := m.Get(f), slotName(name, f)
		switch {
		case f.IsMap():
			var members []slot
			value.Map().Range(func(key protoreflect.MapKey, member protoreflect.Value) bool {
				members = append(members, slotsOf(member.Message(), strings.TrimSpace(label+" "+key.String()))...)
				return true
			})
			slices.SortFunc(members, func(a, b slot) int { return cmp.Compare(a.name, b.name) })
			found = append(found, members...)
		case f.IsList():
			for i := range value.List().Len() {
				found = append(found, slotsOf(value.List().Get(i).Message(), label)...)
			}
		default:
			found = append(found, slotsOf(value.Message(), label)...)
		}
	}
	return found
}

// slotName drops what only wraps: an event's attributes, the list within Payloads, the map within a memo.
func slotName(parent string, f protoreflect.FieldDescriptor) string {
	switch name := string(f.Name()); {
	case strings.HasSuffix(name, "_event_attributes"):
		return ""
	case parent != "":
		return parent
	case name == "search_attributes":
		return "attribute"
	default:
		return strings.ReplaceAll(name, "_", " ")
	}
}

// history reads a workflow's events from the address given: the server's, or the proxy's.
func history(ctx context.Context, address, namespace, workflowID string) ([]*historypb.HistoryEvent, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	frontend := workflowservice.NewWorkflowServiceClient(conn)
	request := &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: workflowID}}
	var events []*historypb.HistoryEvent
	for {
		page, err := frontend.GetWorkflowExecutionHistory(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("read the history of %s from %s: %w", workflowID, address, err)
		}
		events = append(events, page.GetHistory().GetEvents()...)
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return events, nil
		}
	}
}
