package main

import (
	"fmt"
	"slices"
	"sync/atomic"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	querypb "go.temporal.io/api/query/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

// work is a sequence of calls, made again and again by a number of callers.
type work struct {
	name    string
	callers int
	calls   []call
	stored  []answer // what the frontend has to hold for these calls
}

// call is one RPC and the answer that must come out of every variant.
type call struct {
	method  string
	message proto.Message
	request []byte // message, encoded
	want    proto.Message
	vary    *varied // makes each request another one; nil: all are the same
}

// varied are digits of a request, at a place of it, that count up from call to call.
type varied struct {
	at, digits int
	made       atomic.Uint64
}

// next returns a copy of the request with the next number in it.
func (v *varied) next(request []byte) []byte {
	b := slices.Clone(request)
	for i, n := v.at+v.digits-1, v.made.Add(1); i >= v.at; i, n = i-1, n/10 {
		b[i] = '0' + byte(n%10)
	}
	return b
}

// answer is what a frontend returns to a request. It is given in clear, and each variant's frontend holds it sealed by
// that variant; fixture: as sealed over many epochs, by the products.
type answer struct {
	method   string
	request  []byte
	response proto.Message
	fixture  bool
}

const (
	namespace  = "clinic-prod" // that of the recorded RPCs
	service    = "/temporal.api.workflowservice.v1.WorkflowService/"
	maxCallers = 64
	// historyWork is how the names of works start that ask for histories.
	historyWork = "history"
	mixedWork   = "history_300keys"
	coldWork    = mixedWork + "_cold"
	mixWork     = "worker_mix"
)

func newCall(method string, request, want proto.Message) (call, error) {
	b, err := proto.Marshal(request)
	return call{method: method, message: request, request: b, want: want}, err
}

// newStart makes a call that starts a workflow with an input of 1 KB.
func newStart(namespace, workflowType string) (call, error) {
	return newCall("StartWorkflowExecution",
		&workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: "w", RequestId: requestID,
			WorkflowType: &commonpb.WorkflowType{Name: workflowType}, TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"},
			Input: payloads(payload(newRand(), 1<<10))},
		&workflowservice.StartWorkflowExecutionResponse{})
}

// newQuery makes a query that is answered with its own argument.
func newQuery(namespace string, argument *commonpb.Payload) (call, error) {
	args := payloads(argument)
	return newCall("QueryWorkflow",
		&workflowservice.QueryWorkflowRequest{Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: "w"},
			Query: &querypb.WorkflowQuery{QueryType: "ward", QueryArgs: args}},
		&workflowservice.QueryWorkflowResponse{QueryResult: args})
}

// newWorks returns the chosen works. mixed is the history of mixedWork in clear.
func newWorks(o options, mixed *historypb.History) (chosenWorks []work, err error) {
	var all []work
	r := newRand()
	for _, size := range []struct {
		name    string
		bytes   int
		callers []int
	}{
		{"1KB", 1 << 10, []int{1, 16, 64}},
		{"100KB", 100 << 10, []int{1, 16, 64}},
		{"1MB", 1 << 20, []int{1, 16}},
	} {
		query, err := newQuery(namespace, payload(r, size.bytes))
		if err != nil {
			return nil, err
		}
		for _, callers := range size.callers {
			all = append(all, work{name: fmt.Sprintf("query_%s_x%d", size.name, callers), callers: callers, calls: []call{query}})
		}
	}
	for _, h := range []struct {
		name    string
		history *historypb.History
		callers []int
		fixture bool
	}{
		{fmt.Sprintf("%s_%d", historyWork, historyEvents), uniformHistory(), []int{1, 16, 64}, false},
		{mixedWork, mixed, []int{1, 16}, true},
	} {
		get, err := newCall("GetWorkflowExecutionHistory", historyRequest(h.name), historyResponse(h.history))
		if err != nil {
			return nil, err
		}
		for _, callers := range h.callers {
			all = append(all, work{name: fmt.Sprintf("%s_x%d", h.name, callers), callers: callers, calls: []call{get},
				stored: []answer{{get.method, get.request, get.want, h.fixture}}})
		}
	}
	mix, err := newMix(o.rpc)
	if err != nil {
		return nil, err
	}
	for _, w := range append(all, mix) {
		if chosen(o.works, w.name) {
			chosenWorks = append(chosenWorks, w)
		}
	}
	return chosenWorks, nil
}

func historyRequest(workflow string) *workflowservice.GetWorkflowExecutionHistoryRequest {
	return &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: workflow}}
}

func historyResponse(h *historypb.History) *workflowservice.GetWorkflowExecutionHistoryResponse {
	return &workflowservice.GetWorkflowExecutionHistoryResponse{History: h}
}
