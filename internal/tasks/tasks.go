// Package tasks keeps the tasks of workers from being lost when they cannot be opened or answered: it holds
// them while the cause may pass, and then answers them in the worker's place or pauses them; it also holds
// polls while keys or the upstream do not answer. It never decides what is sealed, never hands over a task that is still
// sealed, and reaches the Temporal server only through the connection that each call brings.
//
// Its words: to hold a task is to keep it from its worker and try again to open it; to hold a poll is not to
// forward it yet. A stand-in answer is sent in a worker's place. A paused activity waits at the server until
// a proxy resumes it.
//
//	tasks.go     Tasks, Call, worker; start and end
//	open.go      answers with tasks that did not open at first; hold.go: how long such a task is held
//	workflow.go  activity.go  nexus.go   what happens to one of each kind
//	answer.go    stand-in answers and their texts
//	refused.go   workers' answers that can never be forwarded
//	poll.go      why and how long a poll is held, and empty answers; scaling.go: what they say of numbers of pollers
//	shutdown.go  the end of the held polls of a worker that shuts down
//	credentials.go  those of workers that are kept for that
//	resume.go    paused activities that go on; search.go: those that a proxy before this one has paused
package tasks

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

const (
	// identity stands in the server's histories for the proxy, where the worker's own identity is not
	// known.
	identity = "temporal-seal"
	// from starts each text that the proxy leaves at the server. By it an activity that a proxy has paused
	// is found again.
	from = "temporal-seal: "
	// service is the service of all methods that are named here.
	service = "/temporal.api.workflowservice.v1.WorkflowService/"

	// FirstTry bounds a first attempt: to open an answer, before the timeouts of its tasks are looked at, and to try the keys
	// before a poll is forwarded.
	FirstTry = time.Second
	// requestTimeout bounds a request that the proxy makes by itself.
	requestTimeout = 10 * time.Second

	// maxNamespaces is of how many namespaces something is remembered. Their names have at most 1,000 bytes.
	maxNamespaces = 5_000
)

// Options are the parts of the proxy that Tasks works with. All but Audit are required.
type Options struct {
	Rewriter *rewrite.Rewriter
	Keys     *keyring.Keyring
	Audit    *audit.Log // nil: no record is kept
	// Answered counts an answer in a worker's place, by its method.
	Answered func(method string)
	// Unopened reports n values of a call's task that do not open.
	Unopened func(ctx context.Context, call Call, workflowID string, n int, cause error)
	// Memory counts what opening a task in the background takes, until done is called.
	Memory func() (memory rewrite.Memory, done func())
	// Panicked logs a panic in the background and returns it as an error.
	Panicked func(what string, value any) error
	Log      *slog.Logger
}

// Tasks keeps tasks safe. Its methods may be called from several goroutines.
type Tasks struct {
	options  Options
	polls    *heldPolls
	ctx      context.Context // of what goes on in the background
	stop     context.CancelFunc
	paused   *pausedActivities
	searches *searches
	scaling  *lru.Cache[string, bool] // namespaces in which the server suggests numbers of pollers
	heldLog  lograte.Limiter          // by namespace: thousands of polls may be held
	logged   lograte.Limiter          // of lines about tasks, see log
}

// New returns a Tasks that looks after no activity yet.
func New(o Options) (*Tasks, error) {
	polls, err := newHeldPolls()
	if err != nil {
		return nil, err
	}
	scaling, err := lru.New[string, bool](maxNamespaces)
	if err != nil {
		return nil, err
	}
	searches, err := newSearches()
	if err != nil {
		return nil, err
	}
	t := &Tasks{options: o, polls: polls, scaling: scaling,
		paused:   &pausedActivities{waiting: map[activityKey]*pausedActivity{}},
		searches: searches}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

// Close ends what goes on in the background. Activities that are still paused are found again by a proxy
// that starts later.
func (t *Tasks) Close() {
	t.stop()
	t.paused.clear()
}

// The kinds of tasks, each in the answer to its poll. An answer without a token has no task.
type (
	workflowTask = workflowservice.PollWorkflowTaskQueueResponse
	activityTask = workflowservice.PollActivityTaskQueueResponse
	nexusTask    = workflowservice.PollNexusTaskQueueResponse

	task interface {
		proto.Message
		GetTaskToken() []byte
	}
)

// Call is one call of a client or a worker.
type Call struct {
	Method   *rewrite.Method
	Caller   *policy.Caller
	Request  []byte           // as received
	Session  *rewrite.Session // seals the call's request and opens its answer
	Upstream grpc.ClientConnInterface
	// Credential is the header in which the listener takes credentials; "": none.
	Credential string
	// Reach returns why no connection to the upstream comes up until ctx ends; nil: that is not asked.
	Reach func(ctx context.Context) error
}

func (c Call) namespace() string { return c.Session.Namespace() }

// fields are those of log lines about the call, and about a workflow if e is not nil.
func (c Call) fields(ctx context.Context, e *commonpb.WorkflowExecution) []any {
	fields := c.Session.LogFields(ctx)
	if id := e.GetWorkflowId(); id != "" && c.Session.WorkflowID() == "" {
		fields = append(fields, "workflow_id", id)
	}
	if run := e.GetRunId(); run != "" {
		fields = append(fields, "run_id", run)
	}
	return fields
}

// log logs a line about a task: one a minute for each message, caller and workflow, since a task that fails comes again.
func (t *Tasks) log(
	ctx context.Context, level slog.Level, call Call, e *commonpb.WorkflowExecution, message string, fields ...any,
) {
	caller := ""
	if call.Caller != nil {
		caller = call.Caller.String()
	}
	leftOut, ok := t.logged.Next(strings.Join([]string{message, caller, call.namespace(), e.GetWorkflowId()}, "\x00"))
	if !ok {
		return
	}
	if leftOut > 0 {
		fields = append(fields, "lines_left_out", leftOut)
	}
	t.options.Log.Log(ctx, level, message, append(call.fields(ctx, e), fields...)...)
}

func (c Call) client() workflowservice.WorkflowServiceClient {
	return workflowservice.NewWorkflowServiceClient(c.Upstream)
}

// worker makes requests to the server as the worker would whose call gave its credentials.
type worker struct {
	client      workflowservice.WorkflowServiceClient
	credentials *credentials
	caller      *policy.Caller
}

// worker returns the call's worker, for use after the call's end. out has the metadata that its call is
// forwarded with.
func (c Call) worker(out context.Context) worker {
	md, _ := metadata.FromOutgoingContext(out)
	return worker{c.client(), keepCredentials(md, c.Credential), c.Caller}
}

// outlasting returns a context for a request that has to reach the server though the caller may be gone.
func outlasting(out context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(out), requestTimeout)
}

// transient reports whether the cause of a failure may pass by itself.
func transient(err error) bool {
	e, ok := errors.AsType[*rewrite.Error](err)
	return ok && e.Transient() || errors.Is(err, audit.ErrUnrecorded)
}

// tooLarge reports whether a task takes more memory than one may, whatever others use.
func tooLarge(err error) bool {
	e, ok := errors.AsType[*rewrite.Error](err)
	return ok && e.Kind == rewrite.KindTooLarge
}

// destroyed reports whether a task holds a value whose key was destroyed on purpose.
func destroyed(err error) bool {
	kind := crypto.KindOf(err)
	return kind == crypto.KindErased || kind == crypto.KindExpired
}

// typeOfDestroyed is the type of the failure of such a task.
func typeOfDestroyed(err error) string {
	if crypto.KindOf(err) == crypto.KindExpired {
		return expiredType
	}
	return erasedType
}

// beyondMemory reports whether a task does not open because others use the memory that it takes.
func beyondMemory(err error) bool {
	e, ok := errors.AsType[*rewrite.Error](err)
	return ok && e.Kind == rewrite.KindMemory
}

// denied reports whether a task does not open by the policy, or for want of a grant.
func denied(err error) bool {
	e, ok := errors.AsType[*rewrite.Error](err)
	return ok && (e.Kind == rewrite.KindDenied || crypto.KindOf(err) == crypto.KindForeign)
}
