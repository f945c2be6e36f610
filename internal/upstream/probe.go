package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Probe waits until each upstream with a fixed address has answered GetSystemInfo.
func Probe(ctx context.Context, configs []Config) error {
	router := NewRouter(configs, nil)
	defer router.Close()
	pools, err := router.fixed()
	if err != nil {
		return err
	}
	for _, pool := range pools {
		if err := pool.probe(ctx); err != nil {
			return fmt.Errorf("upstream %s does not answer: %w; %s", pool.config.Address, err, advice(err.Error()))
		}
	}
	return nil
}

func (p *Pool) probe(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "client-name", "temporal-seal", "client-version", "1.0.0")
	client := workflowservice.NewWorkflowServiceClient(p)
	_, err := client.GetSystemInfo(ctx, new(workflowservice.GetSystemInfoRequest), grpc.WaitForReady(true))
	switch st := status.Convert(err); st.Code() {
	case codes.OK, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return nil // it answers; the credentials that it accepts are the callers' own
	case codes.DeadlineExceeded:
		return errors.New(connectionError(st.Message()))
	default:
		return errors.New(st.Message())
	}
}

// advice returns what to do about an upstream that does not answer, by the text of gRPC and crypto/tls.
// TestProbeAdvises fails if an upgrade changes one.
func advice(text string) string {
	const ended = "the server ended the connection: if it requires TLS, add tls: {} to this upstream; if it requires a client " +
		"certificate, set tls.cert_file and tls.key_file"
	for _, a := range []struct{ text, advice string }{
		{"first record does not look like a TLS handshake", "the server speaks no TLS: remove tls from this upstream, or correct the address"},
		{"certificate required", "the server requires a client certificate: set tls.cert_file and tls.key_file"},
		{"error reading server preface", "the server ended the connection: if it requires TLS, add tls: {} to this upstream"},
		// A server that refuses the handshake may end the connection before its reason is read.
		{"broken pipe", ended},
		{"connection reset by peer", ended},
		{"unknown authority", "set tls.ca_file to the authority that signed the server's certificate"},
		{"not valid for", "set tls.server_name to a name in the server's certificate"},
		{"certificate is valid for", "set tls.server_name to a name in the server's certificate"},
	} {
		if strings.Contains(text, a.text) {
			return a.advice
		}
	}
	return "start the Temporal server, or correct the address or its TLS settings"
}

// connectionError shortens gRPC's text about a connection that failed to its cause. It returns a text of
// another form as it is. TestProbeNamesTheUpstreamThatIsDown fails if an upgrade of gRPC changes the form.
func connectionError(text string) string {
	for _, before := range []string{"latest balancer error: ", "connection error: desc = "} {
		if i := strings.LastIndex(text, before); i >= 0 {
			text = text[i+len(before):]
		}
	}
	return strings.Trim(text, `"`)
}
