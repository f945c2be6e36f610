package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// historyEvents is the length of all histories.
const historyEvents = 1000

// canary is in every payload and failure that is made here, recordedCanary in every recorded one: none may arrive in clear
// at the frontend behind a variant that seals.
const canary, recordedCanary = "patient-4711", "CANARY-"

// payload makes JSON text of about so many bytes, 20 at least.
func payload(r *rand.Rand, size int) *commonpb.Payload {
	data := []byte(`{"` + canary + `":"`)
	for len(data) < size-2 {
		data = append(data, "0123456789abcdefghijklmnopqrstuv"[r.IntN(32)])
	}
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: append(data, `"}`...)}
}

// newRand is seeded: equal runs send equal bytes.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func payloads(p ...*commonpb.Payload) *commonpb.Payloads { return &commonpb.Payloads{Payloads: p} }

// history collects events and numbers them.
type history struct {
	events []*historypb.HistoryEvent
}

func (h *history) add(e *historypb.HistoryEvent) {
	e.EventId = int64(len(h.events) + 1)
	e.EventTime = timestamppb.New(time.Unix(1_790_000_000, 0))
	e.TaskId = 1_048_576 + int64(len(h.events))
	h.events = append(h.events, e)
}

func (h *history) full() bool { return len(h.events) >= historyEvents }

const (
	workerIdentity = "17@worker-6f7d"
	requestID      = "0c6f0f3e-8d3a-4a39-b0f8-5b8e3f2b6a11"
)

// uniformHistory is the history of a workflow that ran activities one after another: 500 payloads of 200 bytes.
func uniformHistory() *historypb.History {
	const size = 200
	r := rand.New(rand.NewPCG(3, 4))
	h := new(history)
	for !h.full() {
		h.activityScheduled(payload(r, size), nil)
		h.activityStarted(nil)
		h.activityCompleted(payload(r, size))
		h.workflowTaskCompleted()
	}
	return &historypb.History{Events: h.events}
}

// mixedHistory is the history of a workflow that ran for long and used what carries data: activities with headers, some
// tried again, some failed for good; signals, side effects, and a memo that changes. Most payloads are small, a few
// large (see payloadSize).
func mixedHistory() *historypb.History {
	r := rand.New(rand.NewPCG(5, 6))
	h := new(history)
	next := func() *commonpb.Payload { return payload(r, payloadSize(r)) }
	header := func() *commonpb.Header {
		return &commonpb.Header{Fields: map[string]*commonpb.Payload{"authorization": payload(r, 60+r.IntN(200))}}
	}
	h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
		Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
			WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
				WorkflowType: &commonpb.WorkflowType{Name: "Admission"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"},
				Input:                  payloads(next()),
				OriginalExecutionRunId: requestID, FirstExecutionRunId: requestID, Identity: workerIdentity, Attempt: 1,
				Header: header(),
				Memo:   &commonpb.Memo{Fields: map[string]*commonpb.Payload{"desk": next()}}}}})
	for round := 0; !h.full(); round++ {
		h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
			Attributes: &historypb.HistoryEvent_WorkflowTaskScheduledEventAttributes{
				WorkflowTaskScheduledEventAttributes: &historypb.WorkflowTaskScheduledEventAttributes{
					TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"}, Attempt: 1}}})
		h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED,
			Attributes: &historypb.HistoryEvent_WorkflowTaskStartedEventAttributes{
				WorkflowTaskStartedEventAttributes: &historypb.WorkflowTaskStartedEventAttributes{
					ScheduledEventId: int64(len(h.events)), Identity: workerIdentity, RequestId: requestID}}})
		h.workflowTaskCompleted()
		h.activityScheduled(next(), header())
		h.activityScheduled(next(), header())
		if round%3 == 0 {
			h.activityStarted(failure(r, 1))
		} else {
			h.activityStarted(nil)
		}
		h.activityCompleted(next())
		h.activityStarted(nil)
		if round%5 == 0 {
			h.activityFailed(failure(r, 2))
		} else {
			h.activityCompleted(next())
		}
		h.data(round, next())
	}
	h.events = h.events[:historyEvents]
	return &historypb.History{Events: h.events}
}

// payloadSize draws from what a clinic's workflows carry: 70 % are 20 to 300 bytes, 22 % up to 2 KB, 7 % up to 10 KB,
// and 1 % up to 100 KB.
func payloadSize(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 70:
		return 20 + r.IntN(280)
	case n < 92:
		return 300 + r.IntN(1700)
	case n < 99:
		return 2_000 + r.IntN(8_000)
	default:
		return 10_000 + r.IntN(90_000)
	}
}

// frame is a line of a stack trace.
const frame = "clinic/billing.(*Activities).CheckCoverage({0xc000412a80, 0x1f})\n\t/app/billing/activities.go:214 +0x1c5\n"

// failure is what the Go SDK reports: a text, a stack trace, details, and causes below it.
func failure(r *rand.Rand, depth int) *failurepb.Failure {
	f := &failurepb.Failure{Message: "insurer refused the card of " + canary, Source: "GoSDK",
		StackTrace: strings.Repeat(frame, 8+r.IntN(8)),
		FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{
			Type: "Refused", Details: payloads(payload(r, 80))}}}
	if depth > 1 {
		f.Cause = failure(r, depth-1)
	}
	return f
}

func (h *history) activityScheduled(input *commonpb.Payload, header *commonpb.Header) {
	n := int64(len(h.events))
	h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
		Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{
				ActivityId: fmt.Sprint(n), ActivityType: &commonpb.ActivityType{Name: "BookScan"},
				TaskQueue: &taskqueuepb.TaskQueue{Name: "clinic"},
				Input:     payloads(input), Header: header, WorkflowTaskCompletedEventId: n}}})
}

func (h *history) activityStarted(last *failurepb.Failure) {
	h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED,
		Attributes: &historypb.HistoryEvent_ActivityTaskStartedEventAttributes{
			ActivityTaskStartedEventAttributes: &historypb.ActivityTaskStartedEventAttributes{
				ScheduledEventId: int64(len(h.events)), Identity: workerIdentity, RequestId: requestID, Attempt: 1,
				LastFailure: last}}})
}

func (h *history) activityCompleted(result *commonpb.Payload) {
	n := int64(len(h.events))
	h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
		Attributes: &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{
			ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{
				Result: payloads(result), ScheduledEventId: n - 1, StartedEventId: n, Identity: workerIdentity}}})
}

func (h *history) activityFailed(f *failurepb.Failure) {
	n := int64(len(h.events))
	h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_FAILED,
		Attributes: &historypb.HistoryEvent_ActivityTaskFailedEventAttributes{
			ActivityTaskFailedEventAttributes: &historypb.ActivityTaskFailedEventAttributes{
				Failure: f, ScheduledEventId: n - 1, StartedEventId: n, Identity: workerIdentity}}})
}

func (h *history) workflowTaskCompleted() {
	n := int64(len(h.events))
	h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
		Attributes: &historypb.HistoryEvent_WorkflowTaskCompletedEventAttributes{
			WorkflowTaskCompletedEventAttributes: &historypb.WorkflowTaskCompletedEventAttributes{
				ScheduledEventId: n - 1, StartedEventId: n, Identity: workerIdentity}}})
}

// data adds a signal, a side effect or a changed memo, in turns.
func (h *history) data(round int, p *commonpb.Payload) {
	n := int64(len(h.events))
	switch round % 3 {
	case 0:
		h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
			Attributes: &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{
				WorkflowExecutionSignaledEventAttributes: &historypb.WorkflowExecutionSignaledEventAttributes{
					SignalName: "note", Input: payloads(p), Identity: "desk"}}})
	case 1:
		h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_MARKER_RECORDED,
			Attributes: &historypb.HistoryEvent_MarkerRecordedEventAttributes{
				MarkerRecordedEventAttributes: &historypb.MarkerRecordedEventAttributes{
					MarkerName: "SideEffect", Details: map[string]*commonpb.Payloads{"data": payloads(p)},
					WorkflowTaskCompletedEventId: n}}})
	default:
		h.add(&historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED,
			Attributes: &historypb.HistoryEvent_WorkflowPropertiesModifiedEventAttributes{
				WorkflowPropertiesModifiedEventAttributes: &historypb.WorkflowPropertiesModifiedEventAttributes{
					UpsertedMemo:                 &commonpb.Memo{Fields: map[string]*commonpb.Payload{"ward": p}},
					WorkflowTaskCompletedEventId: n}}})
	}
}
