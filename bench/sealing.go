package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// A message is sealed by the proxy itself: its payloads and failures travel through the proxy in requests of a client,
// and what the frontend received takes their places. So no format of any proxy is known here.

// sealer is a proxy with the frontend behind it.
type sealer struct {
	proxy    *grpc.ClientConn
	frontend control
}

// clearWorkflow is the id of the workflow whose signals a fixture's policy passes in clear.
const clearWorkflow = "clear"

// slots are the places of a message that can be sealed. The pointers lead into the message.
type slots struct {
	payloads []*commonpb.Payload
	failures []*failurepb.Failure // without those that are the cause of another
}

// slotsOf finds the slots of a message in the order in which they stand there; those of one map come in any order.
// Search attributes are left out, as nobody seals them.
func slotsOf(m proto.Message) (s slots, err error) {
	// Failures are emptied while payloads are collected: what is in a failure is sealed with it.
	var kept []*failurepb.Failure
	empty := func(_ *proxy.VisitFailuresContext, f *failurepb.Failure) error {
		s.failures, kept = append(s.failures, f), append(kept, proto.CloneOf(f))
		proto.Reset(f)
		return nil
	}
	err = proxy.VisitFailures(context.Background(), m, proxy.VisitFailuresOptions{Visitor: empty})
	if err != nil {
		return s, err
	}
	err = proxy.VisitPayloads(context.Background(), m, proxy.VisitPayloadsOptions{SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, p []*commonpb.Payload) ([]*commonpb.Payload, error) {
			s.payloads = append(s.payloads, p...)
			return p, nil
		}})
	for i, f := range s.failures {
		proto.Merge(f, kept[i])
	}
	return s, err
}

// seal replaces every payload and failure of a message by what the proxy makes of it.
func (s sealer) seal(ctx context.Context, m proto.Message) error {
	all, err := slotsOf(m)
	if err != nil {
		return err
	}
	if err := s.sealPayloads(ctx, "sealed", all.payloads); err != nil {
		return err
	}
	return s.sealFailures(ctx, all.failures)
}

// sealPayloads sends payloads as the input of a signal to a workflow.
func (s sealer) sealPayloads(ctx context.Context, workflow string, payloads []*commonpb.Payload) error {
	if len(payloads) == 0 {
		return nil
	}
	const method = "SignalWorkflowExecution"
	client := workflowservice.NewWorkflowServiceClient(s.proxy)
	_, err := client.SignalWorkflowExecution(ctx, &workflowservice.SignalWorkflowExecutionRequest{
		Namespace: namespace, SignalName: "s", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: workflow},
		Input: &commonpb.Payloads{Payloads: payloads}})
	if err != nil {
		return err
	}
	arrived := new(workflowservice.SignalWorkflowExecutionRequest)
	if err := s.frontend.lastRequest(ctx, method, arrived); err != nil {
		return err
	}
	sealed := arrived.GetInput().GetPayloads()
	if len(sealed) != len(payloads) {
		return fmt.Errorf("%d payloads were sent, %d arrived", len(payloads), len(sealed))
	}
	for i, p := range payloads {
		proto.Reset(p)
		proto.Merge(p, sealed[i])
	}
	return nil
}

// sealFailures sends each failure as that of an activity.
func (s sealer) sealFailures(ctx context.Context, failures []*failurepb.Failure) error {
	client := workflowservice.NewWorkflowServiceClient(s.proxy)
	for _, f := range failures {
		_, err := client.RespondActivityTaskFailed(ctx, &workflowservice.RespondActivityTaskFailedRequest{
			Namespace: namespace, TaskToken: []byte("token"), Failure: f})
		if err != nil {
			return err
		}
		arrived := new(workflowservice.RespondActivityTaskFailedRequest)
		if err := s.frontend.lastRequest(ctx, "RespondActivityTaskFailed", arrived); err != nil {
			return err
		}
		proto.Reset(f)
		proto.Merge(f, arrived.GetFailure())
	}
	return nil
}

// sealed reports whether no canary is left in a message's payloads and, where failures count, in its failures.
func sealed(m proto.Message, failures bool) (bool, error) {
	all, err := slotsOf(m)
	if err != nil {
		return false, err
	}
	clear := false
	look := func(part proto.Message) {
		b, e := proto.Marshal(part)
		err = errors.Join(err, e)
		clear = clear || bytes.Contains(b, []byte(canary)) || bytes.Contains(b, []byte(recordedCanary))
	}
	for _, p := range all.payloads {
		look(p)
	}
	if failures {
		for _, f := range all.failures {
			look(f)
		}
	}
	return !clear, err
}
