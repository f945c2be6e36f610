package contract

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// pollAsync polls, and returns once the poll is in the proxy.
func (r *rig) pollAsync(t *testing.T, namespace string) <-chan exchange {
	t.Helper()
	done, call := make(chan exchange, 1), r.NewCall()
	go func() {
		done <- exchange{r.client.Do(t.Context(), blackbox.Request{Call: call, Method: "PollActivityTaskQueue", Timeout: time.Minute,
			Body: blackbox.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: namespace})}), call, r}
	}()
	eventually(t, 10*time.Second, func() error {
		if _, metrics := r.admin(t, "/metrics"); !strings.Contains(metrics, "\ntemporal_seal_calls_in_flight 1\n") {
			return fmt.Errorf("the poll has not reached the proxy")
		}
		return nil
	})
	return done
}

func (r *rig) terminate(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(r.proxy.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// While a caller is left, the listener stays open for others: a load balancer may not have noticed yet, and there may be
// no other replica.
func TestWhoConnectsDuringADrainIsServed(t *testing.T) {
	t.Parallel()
	r := start(t, setup{})
	call := r.NewCall()
	answer := blackbox.Message(new(workflowservice.CountWorkflowExecutionsResponse))
	answer.Delay = 4 * time.Second
	r.Set(call, "CountWorkflowExecutions", answer)
	done := make(chan exchange, 1)
	go func() {
		done <- exchange{r.client.Do(t.Context(), blackbox.Request{Call: call, Method: "CountWorkflowExecutions", Timeout: time.Minute,
			Body: blackbox.Marshal(&workflowservice.CountWorkflowExecutionsRequest{Namespace: "ending"})}), call, r}
	}()
	eventually(t, 10*time.Second, func() error {
		if len(r.Of(call)) == 0 {
			return fmt.Errorf("the call has not reached the frontend")
		}
		return nil
	})
	r.terminate(t)
	for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(100 * time.Millisecond) {
		late, err := blackbox.Dial(r.listeners[0])
		if err != nil {
			t.Fatal(err)
		}
		e := r.doVia(t, late, blackbox.Request{Method: "GetSystemInfo"})
		late.Close()
		if e.Code() != "OK" {
			t.Fatalf("a caller that connected %s after SIGTERM got %s: %s", time.Since(began), e.Code(), e.Status.GetMessage())
		}
	}
	if e := <-done; e.Code() != "OK" {
		t.Errorf("the caller that stayed got %s: %s", e.Code(), e.Status.GetMessage())
	}
	select {
	case <-r.proxy.Done():
	case <-time.After(10 * time.Second):
		t.Error("the proxy did not end once its callers had left")
	}
}

// A poll that waits for a key has no task to lose.
func TestHeldPollsEndWhenADrainBegins(t *testing.T) {
	t.Parallel()
	k := startKMS(t, setup{})
	k.kms.Always("", kmsstub.Fault{Error: "KMSInternalException"})
	done := k.pollAsync(t, "ending")
	time.Sleep(2 * time.Second) // the first try of the key is over
	k.terminate(t)
	select {
	case e := <-done:
		if got := answered(t, e, new(workflowservice.PollActivityTaskQueueResponse)); len(got.TaskToken) > 0 {
			t.Errorf("the poll ended with %v", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("the poll is held 5 s after SIGTERM")
	}
}
