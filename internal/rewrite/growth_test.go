package rewrite

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
)

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func jsonNoise(n int) *commonpb.Payloads {
	return &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")},
		Data: fmt.Appendf(nil, "%q", base64.StdEncoding.EncodeToString(noise(n*3/4)))}}}
}

// TestWhatFitsInClearFitsSealed: a workflow task with 1,400 activities, and a
// payload just under the limit of a field, stay under the server's limits.
func TestWhatFitsInClearFitsSealed(t *testing.T) {
	r := newRewriter(t, sealAll)
	task := &workflowpb.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace}
	for range 1400 {
		task.Commands = append(task.Commands, &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
			Attributes: &commandpb.Command_ScheduleActivityTaskCommandAttributes{ScheduleActivityTaskCommandAttributes: &commandpb.ScheduleActivityTaskCommandAttributes{
				ActivityId: "5", ActivityType: &commonpb.ActivityType{Name: "Scan"}, Input: jsonNoise(2600)}}})
	}
	for method, m := range map[string]proto.Message{
		"RespondWorkflowTaskCompleted": task,
		"RespondActivityTaskCompleted": &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace, Result: jsonNoise(maxField - 200)},
		"StartWorkflowExecution": &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace,
			Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": jsonNoise(maxField/2 - 150).Payloads[0], "b": jsonNoise(maxField/2 - 150).Payloads[0]}}},
	} {
		t.Run(method, func(t *testing.T) {
			in := bytesOf(t, m)
			out, err := request(t, r, method, in)
			if err != nil {
				t.Fatal(err)
			}
			if len(in) > maxMessage || len(out) > maxMessage {
				t.Errorf("%d bytes in clear, %d sealed, limit %d", len(in), len(out), maxMessage)
			}
			w := walk{plan: r.plan.Load(), method: method}
			w.reset(out)
			if err := w.run(r.Method(service + method).request); err != nil {
				t.Fatal(err)
			}
			for i := range w.boxes {
				// A box of the whole task may be larger: the limit is on what holds payloads of one field.
				if b := &w.boxes[i]; method != "RespondWorkflowTaskCompleted" && b.end-b.start > maxField {
					t.Errorf("a field of %d bytes, limit %d", b.end-b.start, maxField)
				}
			}
			plan := r.Method(service + method)
			back, err := unsealed(t, r, plan, plan.request.desc, out)
			if err != nil || !bytes.Equal(back, in) {
				t.Errorf("not restored: %v", err)
			}
		})
	}
}

// TestTooLargeEvenCompressed: what can't be made to fit is refused, with an
// error of its own kind, before anything is forwarded.
func TestTooLargeEvenCompressed(t *testing.T) {
	r := newRewriter(t, sealAll)
	out, err := request(t, r, "RespondActivityTaskCompleted", bytesOf(t, &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace,
		Result: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Data: noise(maxField - 50)}}}}))
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindTooLarge || len(out) > 0 {
		t.Errorf("%d bytes and %v", len(out), err)
	}
	// What was too large in clear is the server's to refuse, in its own words.
	if _, err := request(t, r, "RespondActivityTaskCompleted", bytesOf(t, &workflowpb.RespondActivityTaskCompletedRequest{Namespace: testNamespace,
		Result: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Data: noise(maxField + 50)}}}})); err != nil {
		t.Errorf("refused by the proxy: %v", err)
	}
}

// TestManySmallPayloadsBesideLargeOnes: what the envelopes of small payloads add is taken from large ones that compress. The
// length of a payload shows nothing of what it holds.
func TestManySmallPayloadsBesideLargeOnes(t *testing.T) {
	r := newRewriter(t, sealAll)
	sizes := map[int]bool{}
	for _, of := range []func(int) []byte{func(n int) []byte { return fmt.Appendf(nil, "%q", hex.EncodeToString(noise(n/2))) }, func(n int) []byte { return fmt.Appendf(nil, "%q", bytes.Repeat([]byte("a"), n)) }} {
		task := &workflowpb.RespondWorkflowTaskCompletedRequest{Namespace: testNamespace}
		for i := range 1400 {
			task.Commands = append(task.Commands, &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_RECORD_MARKER,
				Attributes: &commandpb.Command_RecordMarkerCommandAttributes{RecordMarkerCommandAttributes: &commandpb.RecordMarkerCommandAttributes{
					MarkerName: "SideEffect", Details: map[string]*commonpb.Payloads{
						"side-effect-id": {Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: fmt.Appendf(nil, "%04d", i)}}},
						"data":           {Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: of(2780)}}}}}}})
		}
		in := bytesOf(t, task)
		out, err := request(t, r, "RespondWorkflowTaskCompleted", in)
		if err != nil || len(in) > maxMessage || len(out) > len(in) || len(out) < len(in)-(16<<10) {
			t.Fatalf("%d bytes became %d: %v", len(in), len(out), err)
		}
		sizes[len(out)] = true
		plan := r.Method(service + "RespondWorkflowTaskCompleted")
		if back, err := unsealed(t, r, plan, plan.request.desc, out); err != nil || !bytes.Equal(back, in) {
			t.Errorf("not restored: %v", err)
		}
	}
	if len(sizes) != 1 {
		t.Errorf("messages of one size became %v", sizes)
	}
}
