package tasks

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// TestPollsWaitForTheirUpstream: a poll whose upstream has no connection is held, goes on once it has one, and ends empty if
// that does not come in time.
func TestPollsWaitForTheirUpstream(t *testing.T) {
	t.Parallel()
	g := guard(t, workflowservice.UnimplementedWorkflowServiceServer{}, opensAll, keyFile(t), new(atomic.Bool))
	call := g.call(t, "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	var up atomic.Bool
	call.Reach = func(context.Context) error {
		if up.Load() {
			return nil
		}
		return errors.New("no connection")
	}
	ctx, cancel := context.WithTimeout(t.Context(), pollMargin+time.Second/10)
	defer cancel()
	if ready, err := g.AwaitKeys(ctx, ctx, call); ready || err != nil {
		t.Errorf("a poll without an upstream: %v, %v; want it to end empty", ready, err)
	}
	type outcome struct {
		ready bool
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		ready, err := g.AwaitKeys(t.Context(), t.Context(), call)
		done <- outcome{ready, err}
	}()
	eventually(t, func() bool { return g.PollsHeld() == 1 })
	up.Store(true)
	if o := <-done; !o.ready || o.err != nil {
		t.Errorf("once the upstream is there: %+v; want the poll to go on", o)
	}
}

// TestAdviceFitsTheCause: who reads why a task was not handed out learns what to change.
func TestAdviceFitsTheCause(t *testing.T) {
	grant := crypto.Errorf(crypto.KindForeign, "open", "it may not be opened: add {from: \"a\", to: \"b\"} to `grants`")
	for _, c := range []struct {
		cause error
		want  string
	}{
		{&rewrite.Error{Kind: rewrite.KindDenied, RPC: "Poll", Err: grant}, "to `grants`; or terminate the workflow"},
		{&rewrite.Error{Kind: rewrite.KindDenied, RPC: "Poll", Err: &rewrite.DeniedError{Reason: "not here"}}, "; change the policy, or terminate the workflow"},
	} {
		if got := unopenedText(c.cause, ""); !strings.HasSuffix(got, c.want) {
			t.Errorf("%s\nwant it to end with %q", got, c.want)
		}
	}
}
