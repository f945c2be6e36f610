package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

// A poll is held, which means not forwarded yet, while one of three does not let the result of its task be sealed or sent: the
// namespace's policy does not load, the upstream cannot be reached, or keys of the namespace do not answer (tryKeys;
// Keyring.Ready says which keys count). It is tried again every second. Then it goes on, or ends empty: a second before its
// caller's deadline, after a minute, or earlier when its worker or the proxy shuts down (shutdown.go) or, where
// the policy did not load, another one has come into force. An error that no wait can help ends a poll with a status
// (mayComeBack). The step that calls AwaitKeys is awaitKeys in server/route.go.

const (
	// longestPoll is how long a poll is held at most, whatever its caller's deadline.
	longestPoll = time.Minute
	// pollMargin is the part of a caller's time that is kept for the empty answer.
	pollMargin = time.Second
	// keysRetry is how often a held poll tries the keys again.
	keysRetry = time.Second
	// controlQueues are those by which the server sends workers commands; no answer to their tasks is
	// sealed.
	controlQueues = "temporal-sys/worker-commands/"
)

// PollsHeld returns how many polls are held.
func (t *Tasks) PollsHeld() int { return t.polls.count() }

// AwaitKeys waits until the upstream can be reached, and the result of a task could be sealed. A task that is handed out before
// that is lost. ready is false when the poll is to end empty, as if there were no task: workers poll again at once
// then, while some give up after a minute of errors. out is ctx with the metadata to send.
func (t *Tasks) AwaitKeys(ctx, out context.Context, call Call) (ready bool, err error) {
	if call.isControlPoll() {
		return true, nil
	}
	limit := time.Now().Add(longestPoll)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-pollMargin).Before(limit) {
		limit = deadline.Add(-pollMargin)
	}
	if err = t.tryKeys(ctx, call); err == nil || !mayComeBack(err) {
		return err == nil, err
	}
	t.logHeld(ctx, call, err)
	request, _ := call.poll()
	held, release := t.polls.hold(ctx, request)
	defer release()
	t.suggestsPollers(out, call) // the empty answer depends on it, and is made in a hurry
	for mayComeBack(err) {
		wait := min(keysRetry, time.Until(limit))
		if wait <= 0 || call.Session.Superseded() && call.Session.Undecided() != nil {
			return false, nil // the next poll is decided by the newer policy
		}
		if backoff.Sleep(held, wait) == nil {
			err = t.tryKeys(held, call)
		}
		switch {
		case err == nil:
			return true, nil
		case held.Err() != nil:
			return false, ctx.Err() // nil if its worker or the proxy shuts down
		}
	}
	return false, err
}

// logHeld logs why polls of a namespace are held, once a minute.
func (t *Tasks) logHeld(ctx context.Context, call Call, err error) {
	if !t.heldLog.Allow(call.namespace()) {
		return
	}
	text := "polls are held and end empty, since results could not be sealed: the tasks wait at the server until the key is back"
	if errors.Is(err, errOutOfReach) {
		text = "polls are held and end empty, since their upstream cannot be reached: they go on once it can"
	}
	if call.Session.Undecided() != nil {
		text = "polls are held and end empty, since the namespace's policy does not load: " +
			"the tasks wait at the server until its file is corrected"
	}
	t.options.Log.Error(text, append(call.fields(ctx, nil), "error", err)...)
}

// errOutOfReach means that a poll's upstream has no connection.
var errOutOfReach = errors.New("the upstream cannot be reached")

// tryKeys tries the upstream and the keys for a short while: the worker may hang up or shut down meanwhile. If the policy of
// the namespace does not load, it returns that error and tries no key.
func (t *Tasks) tryKeys(ctx context.Context, call Call) error {
	if err := call.Session.Undecided(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, FirstTry)
	defer cancel()
	if call.Reach != nil {
		if err := call.Reach(ctx); err != nil {
			return fmt.Errorf("%w: %w", errOutOfReach, err)
		}
	}
	if err := t.options.Keys.Ready(ctx, call.namespace(), call.Session.NamedKeys()); err != nil || !rewrite.NamesSubjects(call.Session) {
		return err
	}
	return t.options.Keys.Subjects().Ready(ctx)
}

// mayComeBack reports whether results can perhaps be sealed later, without a restart: keys may answer again, and a policy may
// be corrected.
func mayComeBack(err error) bool {
	if e, ok := errors.AsType[*rewrite.Error](err); ok && e.Kind == rewrite.KindPolicy {
		return true
	}
	kind := crypto.KindOf(err)
	return errors.Is(err, errOutOfReach) || kind == crypto.KindUnavailable || kind == crypto.KindRevoked || errors.Is(err, context.DeadlineExceeded)
}

// isControlPoll reports whether the poll is for commands of the server to the worker itself. Nothing in the
// answers to them is sealed, so they need no key.
func (c Call) isControlPoll() bool {
	if c.Method.Name() != "PollNexusTaskQueue" {
		return false
	}
	request, _ := c.poll()
	return strings.HasPrefix(strings.TrimPrefix(request.GetTaskQueue().GetName(), "/"), controlQueues)
}

// pollRequest is what the requests of all polls have in common.
type pollRequest interface {
	proto.Message
	GetNamespace() string
	GetWorkerInstanceKey() string
	GetIdentity() string
	GetTaskQueue() *taskqueuepb.TaskQueue
	GetPollerGroupId() string
}

// poll parses the call's request, and returns an answer to it with no task. A request that cannot be parsed
// is empty.
func (c Call) poll() (request pollRequest, empty task) {
	switch c.Method.Name() {
	case "PollWorkflowTaskQueue":
		request, empty = new(workflowservice.PollWorkflowTaskQueueRequest), new(workflowTask)
	case "PollNexusTaskQueue":
		request, empty = new(workflowservice.PollNexusTaskQueueRequest), new(nexusTask)
	default:
		request, empty = new(workflowservice.PollActivityTaskQueueRequest), new(activityTask)
	}
	return readHead(request, c.Request), empty
}

// EmptyPoll returns the answer to a poll that ends without a task by the proxy's decision. out has the
// metadata to ask the server with.
func (t *Tasks) EmptyPoll(out context.Context, call Call) ([]byte, error) {
	request, answer := call.poll()
	m := answer.ProtoReflect()
	if group := m.Descriptor().Fields().ByName("poller_group_id"); group != nil { // activities have none
		m.Set(group, protoreflect.ValueOfString(request.GetPollerGroupId()))
	}
	t.keepPollers(out, call, m)
	return proto.Marshal(answer)
}
