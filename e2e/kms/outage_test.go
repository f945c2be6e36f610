package kms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// What happens when KMS fails. These tests script failures, which only the stub can do.

func startStub(t *testing.T) *peer {
	t.Helper()
	if world.moto != "" {
		t.Skip("moto cannot be told to fail")
	}
	return startPeer(t)
}

// faults are the ways in which KMS can be out of reach.
var faults = map[string]kmsstub.Fault{
	"hang": {Hang: true}, "reset": {Reset: true},
	"ThrottlingException": {Error: "ThrottlingException", Message: "Rate exceeded"}, "KMSInternalException": {Error: "KMSInternalException"},
	"KeyUnavailableException": {Error: "KeyUnavailableException"}, "DependencyTimeoutException": {Error: "DependencyTimeoutException"},
	"ExpiredTokenException": {Error: "ExpiredTokenException"},
}

// TestOutage: data keys at hand go on sealing and opening; what needs KMS fails in bounded time, as something to be
// retried, with nothing forwarded, and works again once KMS does.
func TestOutage(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startStub(t)
			p.key(t, alias(t))
			key := harness.KeyOption{Name: "default", Active: p.uri(alias(t))}
			warm, cold := p.proxy(t, key), p.proxy(t, key)
			id := strings.ReplaceAll(t.Name(), "/", "-")
			if err := start(t.Context(), warm, "default", id, plain("before")); err != nil {
				t.Fatal(err)
			}
			p.stub.Always("", fault)
			if err := start(t.Context(), warm, "default", id+"-during", plain("during")); err != nil {
				t.Errorf("sealing with the key at hand: %v", err)
			}
			opens(t, warm, "default", id, plain("before"))

			// The caller receives the error before their own deadline ends the call, so that they learn the cause.
			soon := func() context.Context {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				t.Cleanup(cancel)
				return ctx
			}
			if err := start(soon(), cold, "default", id+"-cold", plain("never")); status.Code(err) != codes.Unavailable {
				t.Errorf("sealing without a key: %v, want Unavailable", err)
			}
			notForwarded(t, id+"-cold")
			_, err := cold.GetWorkflowExecutionHistory(soon(), &workflowservice.GetWorkflowExecutionHistoryRequest{
				Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: id},
			})
			if status.Code(err) != codes.Unavailable {
				t.Errorf("opening without a key: %v, want Unavailable", err)
			}

			p.stub.Heal()
			healed := func() error { return start(t.Context(), cold, "default", id+"-after", plain("after")) }
			eventually(t, "sealing after the outage", healed)
			opens(t, cold, "default", id, plain("before"))
			opens(t, cold, "default", id+"-after", plain("after"))
		})
	}
}

// notForwarded checks that the server never heard of a workflow.
func notForwarded(t *testing.T, id string) {
	t.Helper()
	_, err := direct(t).DescribeWorkflowExecution(t.Context(), &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	var unknown *serviceerror.NotFound
	if !errors.As(serviceerror.FromStatus(status.Convert(err)), &unknown) {
		t.Errorf("the server knows %s: %v", id, err)
	}
}

func eventually(t *testing.T, what string, do func() error) {
	t.Helper()
	var err error
	for range 100 {
		if err = do(); err == nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("%s: %v", what, err)
}

// TestPassingTrouble: a call or two that fail are retried and nobody notices.
func TestPassingTrouble(t *testing.T) {
	p := startStub(t)
	p.key(t, alias(t))
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	p.stub.Script("GenerateDataKey", faults["ThrottlingException"], faults["reset"])
	if err := start(t.Context(), c, "default", t.Name(), plain("x")); err != nil {
		t.Fatal(err)
	}
	opens(t, c, "default", t.Name(), plain("x"))
}

// TestNoCallPerPayload: with a data key at hand, sealing and opening ask KMS nothing.
func TestNoCallPerPayload(t *testing.T) {
	p := startStub(t)
	p.key(t, alias(t))
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	if err := start(t.Context(), c, "default", t.Name(), plain("x")); err != nil {
		t.Fatal(err)
	}
	p.stub.ResetCalls()
	for i := range 50 {
		id := fmt.Sprint(t.Name(), i)
		if err := start(t.Context(), c, "default", id, plain("x")); err != nil {
			t.Fatal(err)
		}
		opens(t, c, "default", id, plain("x"))
	}
	if calls := p.stub.Calls(); len(calls) != 0 {
		t.Errorf("50 payloads asked KMS %d times, first for %s", len(calls), calls[0].Op)
	}
}

// TestKeyWithdrawn: a key that is disabled or gone disables what needs it; the proxy says which key and why, and what the
// key is for works again without another start once the key does.
func TestKeyWithdrawn(t *testing.T) {
	for _, state := range []kmsstub.State{kmsstub.Disabled, kmsstub.PendingDeletion} {
		t.Run(string(state), func(t *testing.T) {
			p := startStub(t)
			id, _ := p.key(t, alias(t))
			p.stub.SetState(id, state)
			c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
			disabled(t, c, alias(t), string(state))
			p.stub.SetState(id, kmsstub.Enabled)
			worksAgain(t, c)
		})
	}
}

// TestDeniedCaller: credentials without permission, at start.
func TestDeniedCaller(t *testing.T) {
	p := startStub(t)
	p.key(t, alias(t))
	p.stub.DenyCaller("AKIATEST", "AccessDeniedException")
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	disabled(t, c, alias(t), "AccessDenied")
	p.stub.DenyCaller("AKIATEST", "")
	worksAgain(t, c)
}

// TestForeignBlobRevokesNothing: an envelope whose wrapped key is nobody's is refused alone; AWS answers it with
// AccessDenied, as it does for a key that was taken away.
func TestForeignBlobRevokesNothing(t *testing.T) {
	p := startStub(t)
	p.key(t, alias(t))
	gone, _ := p.key(t, alias(t)+"-gone")
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	if err := start(t.Context(), c, "default", t.Name(), plain("good")); err != nil {
		t.Fatal(err)
	}
	foreign := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t) + "-gone")})
	if err := start(t.Context(), foreign, "default", t.Name()+"-foreign", plain("foreign")); err != nil {
		t.Fatal(err)
	}
	// The foreign envelope, with the good one's reference to its key: it is this key that KMS is asked about.
	good, planted := stored(t, direct(t), "default", t.Name()), stored(t, direct(t), "default", t.Name()+"-foreign")
	copy(planted.Data[18:26], good.Data[18:26])
	if err := start(t.Context(), direct(t), "default", t.Name()+"-planted", planted); err != nil {
		t.Fatal(err)
	}
	p.stub.DestroyKey(gone)
	staysShut(t, c, "default", t.Name()+"-planted", codes.DataLoss)
	if err := start(t.Context(), c, "default", t.Name()+"-still", plain("still")); err != nil {
		t.Errorf("a planted envelope stopped the good key: %v", err)
	}
	opens(t, c, "default", t.Name(), plain("good"))
}

// TestMultiRegionKey: replicas of a multi-Region key are one key. What is sealed with one opens with the other, under
// whatever name each proxy has it.
func TestMultiRegionKey(t *testing.T) {
	p := startStub(t)
	id := p.stub.CreateKey(true)
	p.stub.SetAlias(alias(t), id)
	var proxies []frontend
	for _, uri := range []string{
		p.uri(id), p.uri(alias(t)),
		"awskms://" + id + "?region=us-west-2&endpoint=" + p.endpoint,
		"awskms://arn:aws:kms:us-west-2:111122223333:key/" + id + "?endpoint=" + p.endpoint,
	} {
		proxies = append(proxies, p.proxy(t, harness.KeyOption{Name: "default", Active: uri}))
	}
	for i, c := range proxies {
		if err := start(t.Context(), c, "default", fmt.Sprint(t.Name(), i), plain("x")); err != nil {
			t.Fatal(err)
		}
	}
	reference := sealed(t, stored(t, direct(t), "default", t.Name()+"0")).kek
	for i := range proxies {
		if other := sealed(t, stored(t, direct(t), "default", fmt.Sprint(t.Name(), i))).kek; string(other) != string(reference) {
			t.Errorf("proxy %d names the key %x, the first one %x", i, other, reference)
		}
		for _, c := range proxies {
			opens(t, c, "default", fmt.Sprint(t.Name(), i), plain("x"))
		}
	}
}
