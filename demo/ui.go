package main

import (
	"context"
	"fmt"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// stay prints where everything is, and keeps it up until Ctrl-C.
func (st *stage) stay(ctx context.Context, workflowID string) error {
	s := st.s
	plainUI, err := st.plainUI(ctx)
	if err != nil {
		return err
	}
	s.step("Have a look")
	page := "/namespaces/" + clinic.Namespace + "/workflows/" + workflowID
	st.place("Temporal Web UI", st.temporal.UIAddress+page, "as the server has it: what is sealed stays sealed")
	if plainUI != nil {
		st.place("the same, opened", plainUI.UIAddress+page, "reads from Temporal too, and has the proxy's codec server open what it may")
	}
	st.place("proxy", st.proxy.Address, "HostPort for workers and clients; namespace "+clinic.Namespace)
	st.place("its codec server", "http://"+address(st.codecPort), "for Web UI and CLI: temporal workflow show --codec-endpoint ...")
	st.place("its metrics", "http://"+st.proxy.Admin+"/metrics", "")
	st.place("Temporal itself", st.temporal.Address, "HostPort past the proxy")
	switch {
	case st.jaeger == nil:
	case st.jaeger.HasUI:
		st.place("Jaeger", st.jaeger.Query+"/search?service=temporal-seal", "the proxy's traces")
	default:
		st.place("Jaeger", st.jaeger.Query+"/api/traces?service=temporal-seal", "the proxy's traces, by its query API; a released jaeger-all-in-one on PATH has the pages")
	}
	s.line("\n   %s", s.paint(dim, "The worker keeps running. Ctrl-C ends it all."))
	select {
	case <-ctx.Done():
		return nil
	case <-st.proxy.Done():
		return fmt.Errorf("the proxy ended\n%s", st.proxy.Output())
	case <-st.temporal.Done():
		return fmt.Errorf("the Temporal server ended\n%s", st.temporal.Output())
	}
}

// place prints an address, in one line, so that it can be clicked, and what is there.
func (st *stage) place(name, address, what string) {
	st.s.row(cell{17, bold, name, 1}, cell{len(address), plain, address, 1})
	if what != "" {
		st.s.row(cell{17, plain, "", 1}, cell{st.s.width - indent - 18, dim, what, 0})
	}
}

// plainUI serves the Web UI a second time, with the proxy's codec server. Building a Temporal server for that alone would be too
// much.
func (st *stage) plainUI(ctx context.Context) (*peers.Process, error) {
	if !peers.TemporalBuilt() {
		return nil, nil
	}
	p, err := peers.StartWebUIWith(ctx, peers.WebUIOptions{Frontend: st.temporal.Address, Port: st.openUIPort, CodecEndpoint: "http://" + address(st.codecPort)})
	if err != nil {
		return nil, err
	}
	st.onClose(p)
	return p, nil
}
