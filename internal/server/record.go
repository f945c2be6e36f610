package server

import (
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/tasks"
)

// There is one audit record for each call that had something opened, written before its answer leaves.

// recordable refuses a call, before anything is forwarded, whose record is required and could not be kept now. Results of
// tasks are forwarded: their work is done, and a task that comes back with them can still be answered in the worker's place.
func recordable(log *audit.Log, m *rewrite.Method) error {
	if !m.AnswerSealed() || tasks.HandsOut(m) && !m.IsPoll() {
		return nil
	}
	return log.Ready()
}

// record writes down what this call has opened. An error means that the answer must not leave.
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

// unopened are the entries of an account that could not be opened.
func unopened(account []rewrite.Handled) []rewrite.Handled {
	return slices.DeleteFunc(slices.Clone(account), func(a rewrite.Handled) bool {
		return a.Outcome != rewrite.Denied && a.Outcome != rewrite.Failed
	})
}
