package main

import (
	"context"
	"fmt"
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

// slotsOf finds all of an event's slots, in the order of its fields.
func slotsOf(event *historypb.HistoryEvent) []slot {
	var found []slot
	walk(event.ProtoReflect(), "", func(s slot) { found = append(found, s) })
	return found
}

func walk(m protoreflect.Message, name string, found func(slot)) {
	switch v := m.Interface().(type) {
	case *commonpb.Payload:
		found(slot{name: name, payload: v})
		return
	case *failurepb.Failure:
		found(slot{name: name, failure: v})
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil || !m.Has(f) {
			continue
		}
		value, label := m.Get(f), slotName(name, f)
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			for _, key := range sortedKeys(value.Map()) {
				walk(value.Map().Get(key).Message(), strings.TrimSpace(label+" "+key.String()), found)
			}
		case f.IsMap():
		case f.IsList():
			for i := range value.List().Len() {
				walk(value.List().Get(i).Message(), label, found)
			}
		default:
			walk(value.Message(), label, found)
		}
	}
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

func sortedKeys(m protoreflect.Map) []protoreflect.MapKey {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	for i := range keys { // a handful at most
		for j := i; j > 0 && keys[j].String() < keys[j-1].String(); j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

// history reads a workflow's events from the address given: the server's, or the proxy's.
func history(ctx context.Context, address, namespace, workflowID string) ([]*historypb.HistoryEvent, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	frontend := workflowservice.NewWorkflowServiceClient(conn)
	request := &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: workflowID},
	}
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
