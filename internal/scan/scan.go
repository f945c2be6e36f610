package scan

import (
	"context"
	"fmt"
	"time"

	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

// Options are what a Scanner needs.
type Options struct {
	Rewriter *rewrite.Rewriter // required: it knows the places of payloads
	// Rate bounds the calls per second, required.
	Rate float64
	// Save stores the state after each page of a list. Nil: it is not stored.
	Save func(*State) error
	// Rows returns rows of the key store by id, one for each, without those that it does not have. Nil: envelopes by reference
	// count as not read.
	Rows func(context.Context, []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error)
	// Subjects is the same for envelopes under keys of subjects, by the ids of these. A row without a wrapped key is one whose
	// subject was erased.
	Subjects func(context.Context, []crypto.KeyID) (map[crypto.KeyID]crypto.KeyRow, error)
	// Found is called for each envelope. Nil: it is not.
	Found func(h *envelope.Header, where string)
	// Progress is called after each page. Nil: it is not.
	Progress func(namespace, what string, n *Namespace)

	// Look gets the answers in place of the count of envelopes, and with it the walk leaves out the server's own workflows.
	// Nil: envelopes are counted.
	Look func(a *Answer)
	// Running leaves out what has ended and what never runs: it narrows standalone activities and Nexus operations to those that run, and
	// passes over deployments and archives. For workflows, see Query.
	Running bool
	// Want reports whether a workflow is looked at. Nil: all are.
	Want func(namespace string, e *workflowpb.WorkflowExecutionInfo) bool
	// Query narrows the workflows to those that a visibility query matches. "": all.
	Query string
	// ListRate bounds the calls per second that ask the visibility store, within Rate. 0: Rate alone bounds them.
	ListRate float64
	// Gentle asks the server to serve others first.
	Gentle bool
}

// Answer is an answer of the server about one thing that it holds.
type Answer struct {
	Namespace string
	// Where names the thing for reports.
	Where   string
	Message proto.Message
	// Workflow is that to which the answer belongs, as the list of workflows has it. Nil: it belongs to none.
	Workflow *workflowpb.WorkflowExecutionInfo
}

// State is how far a scan has come, so that it can be resumed.
type State struct {
	Report
	// Step is the step that is under way in the first namespace that is not done, and Page the token of its
	// next page.
	Step int    `json:"step"`
	Page []byte `json:"page,omitempty"`
}

// Scanner walks namespaces one after the other.
type Scanner struct {
	options Options
	limit   *rate.Limiter
	lists   *rate.Limiter   // of calls to the visibility store
	seen    map[string]bool // runs: a workflow that closes moves to another page of the list
}

// New returns a scanner.
func New(o Options) *Scanner {
	s := &Scanner{options: o, limit: rate.NewLimiter(rate.Limit(o.Rate), max(1, int(o.Rate))), lists: rate.NewLimiter(rate.Inf, 1)}
	if o.ListRate > 0 {
		s.lists.SetLimit(rate.Limit(o.ListRate))
	}
	return s
}

// steps are the kinds of things that a namespace holds.
var steps = []struct {
	what string
	page func(w *walk, ctx context.Context, token []byte) (next []byte, err error)
}{
	{"settings", (*walk).settings},
	{"workflows", (*walk).workflows},
	{"system workflows", (*walk).systemWorkflows},
	{"schedules", (*walk).schedules},
	{"activities", (*walk).activities},
	{"nexus operations", (*walk).nexusOperations},
	{"deployments", (*walk).deployments},
}

// Run walks a namespace over a connection to its server, from where the state is. An error ends the scan as a
// whole; the report has what could not be read.
func (s *Scanner) Run(ctx context.Context, conn grpc.ClientConnInterface, namespace string, state *State) error {
	if state.Namespaces == nil {
		state.Namespaces = map[string]*Namespace{}
	}
	n := state.Namespaces[namespace]
	if n == nil {
		n = newNamespace()
		state.Namespaces[namespace] = n
		state.Step, state.Page = 0, nil
	}
	if n.Done {
		return nil
	}
	s.seen = map[string]bool{}
	w := &walk{scanner: s, client: workflowservice.NewWorkflowServiceClient(conn), namespace: namespace, found: n,
		counter: counter{options: &s.options, found: n}}
	for state.Step < len(steps) {
		step := steps[state.Step]
		next, err := step.page(w, ctx, state.Page)
		w.counter.resolve(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case status.Code(err) == codes.Unimplemented:
			next = nil // an older server, which has no such things
		case err != nil && len(n.Walked) == 0 && state.Step <= 1:
			return fmt.Errorf("namespace %s: %s: %w", namespace, step.what, err) // nothing of the namespace can be read
		case err != nil:
			n.unread(step.what + ": " + errorText(err))
			next = nil
		}
		if state.Page = next; len(next) == 0 {
			state.Step++
		}
		n.Done = state.Step == len(steps)
		if s.options.Progress != nil {
			s.options.Progress(namespace, step.what, n)
		}
		if s.options.Save != nil {
			if err := s.options.Save(state); err != nil {
				return fmt.Errorf("the state of the scan cannot be saved: %w", err)
			}
		}
	}
	return nil
}

const (
	// callTimeout bounds one call. The largest answer is a page of a history.
	callTimeout = 30 * time.Second
	// tries bounds the calls for one answer. The pauses between them come to 6 s.
	tries = 6
)

// list is call for a page of a list, which the visibility store serves.
func list[Q, A any](
	ctx context.Context, w *walk, f func(context.Context, Q, ...grpc.CallOption) (A, error), q Q,
) (a A, err error) {
	return call(ctx, w, func(ctx context.Context, q Q, o ...grpc.CallOption) (a A, err error) {
		if err := w.scanner.lists.Wait(ctx); err != nil {
			return a, err
		}
		return f(ctx, q, o...)
	}, q)
}

// call makes one call within the rate, and repeats it after errors that may pass.
func call[Q, A any](
	ctx context.Context, w *walk, f func(context.Context, Q, ...grpc.CallOption) (A, error), q Q,
) (a A, err error) {
	pause := backoff.Backoff{First: 200 * time.Millisecond, Max: time.Minute}
	for try := 1; ; try++ {
		if err = w.scanner.limit.Wait(ctx); err != nil {
			return a, err
		}
		limited, cancel := context.WithTimeout(ctx, callTimeout)
		if w.scanner.options.Gentle {
			// A server under load delays and refuses preemptable calls first.
			limited = metadata.AppendToOutgoingContext(limited, "caller-type", "preemptable")
		}
		a, err = f(limited, q)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted:
		default:
			return a, err
		}
		if try == tries || ctx.Err() != nil {
			return a, err
		}
		if err := pause.Wait(ctx); err != nil {
			return a, err
		}
	}
}

// errorText returns the status and message of a gRPC error, without the words that gRPC puts in front.
func errorText(err error) string {
	if st, ok := status.FromError(err); ok {
		return st.Code().String() + ": " + st.Message()
	}
	return err.Error()
}
