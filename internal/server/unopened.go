package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/tasks"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// Sealed values that do not open are reported here, whichever way they take to their callers: answers to clients, status
// details, tasks, and the codec server. A call can succeed although values in it did not open, so calls that fail show only
// a part of them.

// unopened counts and logs sealed values that do not open.
type unopened struct {
	counts *prometheus.CounterVec
	log    *slog.Logger
	logged lograte.Limiter
}

// ReportUnopened counts the sealed values of a session's answer that did not open, and logs one line a minute for each
// namespace, method, reason and workflow.
func (s *Server) ReportUnopened(ctx context.Context, session *rewrite.Session) {
	for _, u := range session.Unopened() {
		s.unopened.report(ctx, session, session.WorkflowID(), u)
	}
}

// task is ReportUnopened for n values of a task. Its workflow is known by the task alone.
func (o *unopened) task(ctx context.Context, call tasks.Call, workflowID string, n int, cause error) {
	o.report(ctx, call.Session, workflowID, rewrite.Unopened{Reason: reason(cause), Count: n, Err: cause})
}

func (o *unopened) report(ctx context.Context, session *rewrite.Session, workflowID string, u rewrite.Unopened) {
	o.counts.WithLabelValues(u.Reason).Add(float64(u.Count))
	leftOut, ok := o.logged.Next(strings.Join([]string{session.Namespace(), session.Method(), u.Reason, workflowID}, "\x00"))
	if !ok {
		return
	}
	level := slog.LevelError
	if u.Reason == rewrite.KindDenied.String() {
		level = slog.LevelInfo // as the policy says
	}
	fields := session.LogFields(ctx)
	if session.WorkflowID() == "" && workflowID != "" {
		fields = append(fields, "workflow_id", cut(workflowID))
	}
	fields = append(fields, "reason", u.Reason)
	var e *crypto.Error
	if errors.As(u.Err, &e) && e.Key != "" {
		fields = append(fields, "key", e.Key, "sealed_in", e.Namespace)
	}
	fields = append(fields, "values", u.Count, "error", cut(u.Err.Error()))
	o.log.Log(ctx, level, "a sealed value does not open", withLeftOut(fields, leftOut)...)
}

// withLeftOut adds how many lines were left out since the last one.
func withLeftOut(fields []any, n int) []any {
	if n > 0 {
		fields = append(fields, "lines_left_out", n)
	}
	return fields
}
