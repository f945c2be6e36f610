package scan

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

// Options say what is walked, and how fast.
type Options struct {
	Rewriter *rewrite.Rewriter // for its knowledge of where payloads stand
	// Rate is how many calls a second the server gets at most.
	Rate float64
	// Save, where set, is given the state after each page of a list.
	Save func(*State) error
	// Progress, where set, is told after each page.
	Progress func(namespace, what string, n *Namespace)
}

// State is how far a scan has come: enough to go on from there.
type State struct {
	Report
	// Step is what is being walked in the first namespace that is not done, and Page the token of its next page.
	Step int    `json:"step"`
	Page []byte `json:"page,omitempty"`
}

// Scanner walks namespaces one after the other.
type Scanner struct {
	Options
	limit *rate.Limiter
	seen  map[string]bool // runs, since a workflow that closes moves to another page of the list
}

// New makes a scanner.
func New(o Options) *Scanner {
	return &Scanner{Options: o, limit: rate.NewLimiter(rate.Limit(o.Rate), max(1, int(o.Rate)))}
}

// step is one kind of thing that a namespace holds, in pages.
type step struct {
	what string
	page func(w *walk, ctx context.Context, token []byte) (next []byte, err error)
}

var steps = []step{
	{"settings", (*walk).settings},
	{"workflows", func(w *walk, ctx context.Context, token []byte) ([]byte, error) { return w.workflows(ctx, "", token) }},
	// Those that the server runs for schedules, batches and deployments are not listed with the others.
	{"system workflows", func(w *walk, ctx context.Context, token []byte) ([]byte, error) {
		return w.workflows(ctx, "TemporalNamespaceDivision IS NOT NULL", token)
	}},
	{"schedules", (*walk).schedules},
	{"activities", (*walk).activities},
	{"nexus operations", (*walk).nexusOperations},
	{"deployments", (*walk).deployments},
}

// Run walks a namespace over a connection to its server, from where the state says. An error is one of the scan as a
// whole; what could not be read stands in the report.
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
	w := &walk{s: s, client: workflowservice.NewWorkflowServiceClient(conn), namespace: namespace, n: n}
	for state.Step < len(steps) {
		step := steps[state.Step]
		next, err := step.page(w, ctx, state.Page)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case status.Code(err) == codes.Unimplemented:
			next = nil // an older server: what it has no call for it does not keep
		case err != nil && len(n.Walked) == 0 && state.Step <= 1:
			return fmt.Errorf("namespace %s: %s: %w", namespace, step.what, err) // not even a beginning
		case err != nil:
			n.unread(step.what + ": " + told(err))
			next = nil
		}
		if state.Page = next; len(next) == 0 {
			state.Step++
		}
		n.Done = state.Step == len(steps)
		if s.Progress != nil {
			s.Progress(namespace, step.what, n)
		}
		if s.Save != nil {
			if err := s.Save(state); err != nil {
				return fmt.Errorf("the state of the scan cannot be saved: %w", err)
			}
		}
	}
	return nil
}

const (
	callTimeout = 30 * time.Second
	tries       = 6
)

// call makes one call, again where the server asks for it, and no faster than it may.
func call[Q, A any](ctx context.Context, w *walk, f func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) (a A, err error) {
	pause := backoff.Backoff{First: 200 * time.Millisecond, Max: time.Minute}
	for try := 1; ; try++ {
		if err = w.s.limit.Wait(ctx); err != nil {
			return a, err
		}
		limited, cancel := context.WithTimeout(ctx, callTimeout)
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

func told(err error) string {
	if st, ok := status.FromError(err); ok {
		return st.Code().String() + ": " + st.Message()
	}
	return err.Error()
}

func gone(err error) bool { return status.Code(err) == codes.NotFound }
