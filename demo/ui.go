package main

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
)

// stay draws the workflow's trace, prints where everything is, and keeps it up until Ctrl-C.
func (st *stage) stay(ctx context.Context, workflowID string) error {
	s := st.s
	if st.jaeger != nil {
		s.step("The workflow's trace, from Jaeger")
		roots, err := st.traces(ctx, workflowID)
		if err != nil {
			return err
		}
		waterfall(s, roots)
	}
	s.step("Have a look")
	s.line("   %s", s.paint(bold, pad("Temporal Web UI", 18))+st.temporal.UIAddress+"/namespaces/"+clinic.Namespace+"/workflows/"+workflowID)
	s.line("   %s", s.paint(bold, pad("proxy", 18))+st.proxy.Address+s.paint(dim, "  a worker's or client's HostPort, namespace "+clinic.Namespace))
	s.line("   %s", s.paint(bold, pad("proxy's metrics", 18))+"http://"+address(st.adminPort)+"/metrics")
	s.line("   %s", s.paint(bold, pad("Temporal itself", 18))+st.temporal.Address+s.paint(dim, "  what the server stores, past the proxy"))
	if st.jaeger != nil {
		page := st.jaeger.Query
		if !st.jaeger.HasUI {
			page += "/api/traces?service=temporal-seal" + s.paint(dim, "  (query API; a released jaeger-all-in-one on PATH has the UI)")
		}
		s.line("   %s", s.paint(bold, pad("Jaeger", 18))+page)
	}
	s.line("\n   %s", s.paint(dim, "Ctrl-C ends it all."))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-st.proxy.Done():
		return fmt.Errorf("the proxy ended\n%s", st.proxy.Output())
	case <-st.temporal.Done():
		return fmt.Errorf("the Temporal server ended\n%s", st.temporal.Output())
	}
}

// traces waits until Jaeger has indexed what it was sent.
func (st *stage) traces(ctx context.Context, workflowID string) ([]*traceSpan, error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		roots, err := queryTraces(ctx, st.jaeger.Query, workflowID)
		if err != nil || len(roots) > 0 || time.Now().After(deadline) {
			return roots, err
		}
	}
}
