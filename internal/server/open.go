package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/tasks"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// open makes the answer to send: the one that came, if nothing in it changes.
func (c *call) open() error {
	if c.id.Namespaces != nil && c.method.full == listNamespaces {
		if err := onlyReached(&c.answer, c.id); err != nil {
			return err
		}
	}
	if !c.method.rewrite.ResponseTouched() {
		return nil
	}
	start := time.Now()
	sealed := c.answer.BytesIn(frame.Sealed)
	plain, err := c.openAnswer(sealed)
	if err != nil {
		c.answer.Free()
		if !errors.Is(err, audit.ErrUnrecorded) {
			_ = c.record(codeOf(err)) // the caller gets an error anyway
		}
		return ofAnswer(err)
	}
	c.rewritten(policy.Response, c.session.ResponseStats(), start, trace.SpanFromContext(c.ctx))
	if !same(plain, sealed) {
		c.answer.Free()
		c.answer = c.lease.lendAnswer(plain)
	}
	return nil
}

// What happens when an answer does not open depends on what it is:
//
//   - a task for a worker (tasks.HandsOut): it is held while its key may still answer. One that never opens is answered in
//     the worker's place and left out of the answer. internal/tasks/open.go decides that; its files have a kind of task each.
//   - a history that a worker replays or a client reads as a whole: the call fails.
//   - an answer that its caller waits for, such as a result: the call fails if the cause may pass by itself, as when a key
//     service does not answer. Else the payload stays sealed.
//   - every other answer, such as a list: the payload stays sealed, and the call succeeds.
//
// The last three are decided in rewrite/open.go (keepSealed), by the properties of the method in rewrite/plan.go. A payload
// that the policy denies counts as one that never opens. One that it keeps is no error, but in a task that counts as denied
// too. The last three also fail if a rule fails, if the bytes are not the message that they should be, if there is no memory
// for it, or if its audit record is required and cannot be written. A poll does not: its task is held, then answered in the
// worker's place, or the poll ends empty. It fails only if a required record cannot be written once the task is open. The
// status of a call that fails is in errors.go.

// openAnswer opens an answer, and has tasks in it that do not open answered in their workers' place.
func (c *call) openAnswer(sealed []byte) ([]byte, error) {
	if !tasks.HandsOut(c.method.rewrite) {
		plain, err := c.session.Response(c.ctx, sealed)
		c.server.ReportUnopened(c.ctx, c.session)
		if err != nil {
			c.server.metrics.Failed(policy.Response, err)
			return nil, err
		}
		return plain, c.record(codes.OK)
	}
	arrived := time.Now()
	first, cancel := context.WithTimeout(c.ctx, tasks.FirstTry)
	plain, err := c.session.Response(first, sealed)
	cancel()
	if err == nil {
		if err = c.record(codes.OK); err == nil {
			return plain, nil
		}
	}
	c.server.metrics.Failed(policy.Response, err)
	if failed, ok := errors.AsType[*rewrite.Error](err); ok && !failed.Transient() {
		countOutcomes(c, c.session.ResponseStats(), false) // the counts are gone once what is left is opened
	}
	if c.server.audit != nil {
		c.withheld = notOpened(c.session.Account()) // the account is gone once what is left is opened
	}
	md, _ := metadata.FromOutgoingContext(c.out)
	plain, err = c.server.tasks.Open(metadata.NewOutgoingContext(c.ctx, md), c.taskCall(),
		tasks.Unopened{Sealed: sealed, Arrived: arrived, Cause: err})
	if err != nil {
		return nil, err
	}
	return plain, c.record(codes.OK)
}

// openStatus makes the answer from an error that came from the upstream or from the way there. sent is the
// size of the request as it was forwarded.
func (c *call) openStatus(err error, sent int) error {
	st := status.Convert(err).Proto()
	if other, grown := grownTooLarge(st, len(c.request), sent); grown {
		st = other
	} else if c.method.rewrite.StatusTouched() {
		opened := c.session.Status(c.ctx, st)
		c.server.ReportUnopened(c.ctx, c.session)
		if refused := c.record(codes.Code(st.GetCode())); refused != nil {
			return refused
		}
		st = opened
	}
	return &upstreamError{status.FromProto(st)}
}

// There is one audit record for each call whose answer held something sealed, whether it was opened or not, written before
// the answer leaves (record, below). What happens when it cannot be written depends on
// `audit.required`:
//
//   - without it the record is dropped, counted and logged, and the call goes on (audit/log.go).
//   - with it the answer does not leave: the call gets Unavailable (audit.ErrUnrecorded in errors.go) after at most `audit.wait`.
//     A call whose answer may have something to open is refused before it is forwarded, if records cannot be kept just then
//     (recordable, which route.go asks), so that no poll takes a task that its worker cannot get. A task that has come all the
//     same is held like one whose key does not answer (tasks/hold.go).
//
// The codec server does the same over HTTP, with 503 (record in codecserver/handler.go). A request that is refused before
// it is forwarded has no record, but a line in the log.

// recordable refuses a call, before anything is forwarded, whose record is required and could not be kept
// now. Results of tasks are forwarded: their work is done, and a task that comes back with them can still be
// answered in the worker's place.
func recordable(log *audit.Log, m *rewrite.Method) error {
	if !m.AnswerSealed() || tasks.HandsOut(m) && !m.IsPoll() {
		return nil
	}
	return log.Ready()
}

// record writes down what this call has opened, or has not. An error means that the answer must not leave.
func (c *call) record(code codes.Code) error {
	if c.server.audit == nil {
		return nil
	}
	account := c.session.Account()
	if len(account) == 0 {
		account = c.withheld
	}
	if len(account) == 0 {
		return nil
	}
	r := audit.Of(c.ctx, c.session, c.id.Caller)
	r.RPC, r.Code, r.Payloads = c.method.rewrite.Name(), codeName(code), account
	return c.server.audit.Write(c.ctx, &r)
}

// notOpened are the entries of an account that could not be opened.
func notOpened(account []rewrite.Handled) []rewrite.Handled {
	return slices.DeleteFunc(slices.Clone(account), func(a rewrite.Handled) bool {
		return a.Outcome != rewrite.Denied && a.Outcome != rewrite.Failed
	})
}
