package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// shownTo gives what an upstream has seen, ever, of credentials and of the header that routes.
func (f *frontend) shownTo(header string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, md := range f.heads {
		all = append(all, md[header]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestCredentialsStayWithTheirUpstream: three upstreams, one that gets an API key, one that gets the callers' own tokens, and one
// that gets neither.
func TestCredentialsStayWithTheirUpstream(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.write(t, filepath.Join(dir, "ca.crt"))
	ca.issue(t, dir, "server", "localhost", "")
	writeFile(t, filepath.Join(dir, "key"), "the-api-key")
	writeFile(t, filepath.Join(dir, "token"), "callers-token")
	log := slog.New(slog.DiscardHandler)
	server, err := filewatch.ServerTLS(log, filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), "", "h2")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := upstream.TLS{CAFile: filepath.Join(dir, "ca.crt"), ServerName: "localhost"}.Credentials(log)
	if err != nil {
		t.Fatal(err)
	}
	key, err := upstream.NewAPIKey(log, filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := filewatch.Token(log, filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	keyed, passed, bare := &frontend{}, &frontend{}, &frontend{}
	for _, f := range []*frontend{keyed, passed, bare} {
		startFrontend(t, f, grpc.Creds(credentials.NewTLS(server)))
	}
	c := startProxy(t, keyed, func(o *Options) {
		o.Listeners[0].Credential = "authorization"
		o.Listeners[0].Identify = auth.Tokens("tokens", "authorization", []auth.Token{{Subject: "ci", Namespaces: []string{"keyed", "passed", "bare-*"}, Value: token}})
		o.Upstreams = []upstream.Config{
			{Namespaces: []string{"keyed"}, Address: keyed.address, TLS: creds, APIKey: key},
			{Namespaces: []string{"passed"}, Address: passed.address, TLS: creds, PassCredential: true},
			{Address: bare.address, TLS: creds},
		}
	}).client(t)
	ctx := callWith(testContext(t), "authorization", "Bearer callers-token", "authorization-extras", "callers-extras", "temporal-namespace", "passed")
	for _, namespace := range []string{"keyed", "passed", "bare-1"} {
		if got := describeIn(ctx, c, namespace); got != codes.OK {
			t.Errorf("%s: %v", namespace, got)
		}
		// What the proxy asks by itself, once a namespace is new, goes the same way.
		if _, err := c.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: "w", Input: payloads([]byte(`"x"`))}); err != nil {
			t.Errorf("%s: %v", namespace, err)
		}
	}
	if _, err := c.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]struct {
		*frontend
		authorization, extras, namespace string
	}{
		"keyed":  {keyed, "[Bearer the-api-key]", "[]", "[keyed]"},
		"passed": {passed, "[Bearer callers-token]", "[callers-extras]", "[passed]"},
		"bare":   {bare, "[]", "[callers-extras]", "[bare-1]"},
	} {
		if got := fmt.Sprint(want.shownTo("authorization")); got != want.authorization {
			t.Errorf("%s was shown %s", name, got)
		}
		if got := fmt.Sprint(want.shownTo("authorization-extras")); got != want.extras {
			t.Errorf("%s was shown the extras %s", name, got)
		}
		if got := fmt.Sprint(want.shownTo("temporal-namespace")); got != want.namespace {
			t.Errorf("%s receives the namespaces %s, whatever the caller put there", name, got)
		}
	}

	writeFile(t, filepath.Join(dir, "key"), "the-next-api-key")
	time.Sleep(filewatch.Recheck + 50*time.Millisecond)
	if got := describeIn(ctx, c, "keyed"); got != codes.OK || strings.Join(keyed.lastMetadata(t)["authorization"], "|") != "Bearer the-next-api-key" {
		t.Errorf("after the key was rotated: %v, %v", got, keyed.lastMetadata(t)["authorization"])
	}
}

// TestUpstreamClientCertificate: each upstream is shown its own certificate, the one that stands in the file now.
func TestUpstreamClientCertificate(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.write(t, filepath.Join(dir, "ca.crt"))
	ca.issue(t, dir, "server", "localhost", "")
	log := slog.New(slog.DiscardHandler)
	server, err := filewatch.ServerTLS(log, filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), filepath.Join(dir, "ca.crt"), "h2")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(chan string, 10)
	start := func(name string) upstream.Config {
		ca.issue(t, dir, name, "", "spiffe://cluster/"+name)
		f := &frontend{}
		f.describe = func(ctx context.Context, _ *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
			p, _ := peer.FromContext(ctx)
			shown <- p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].URIs[0].Path
			return new(workflowservice.DescribeWorkflowExecutionResponse), nil
		}
		startFrontend(t, f, grpc.Creds(credentials.NewTLS(server)))
		creds, err := upstream.TLS{CAFile: filepath.Join(dir, "ca.crt"), ServerName: "localhost", CertFile: filepath.Join(dir, name+".crt"), KeyFile: filepath.Join(dir, name+".key")}.Credentials(log)
		if err != nil {
			t.Fatal(err)
		}
		return upstream.Config{Namespaces: []string{name}, Address: f.address, TLS: creds}
	}
	upstreams := []upstream.Config{start("one"), start("two")}
	through := func() workflowservice.WorkflowServiceClient {
		return startProxy(t, &frontend{}, func(o *Options) { o.Upstreams = upstreams }).client(t)
	}
	c := through()
	for _, name := range []string{"one", "two", "one"} {
		if got := describeIn(testContext(t), c, name); got != codes.OK {
			t.Fatal(got)
		}
		if got := <-shown; got != "/"+name {
			t.Errorf("the upstream for %s was shown %s", name, got)
		}
	}
	ca.issue(t, dir, "one", "", "spiffe://cluster/next")
	time.Sleep(filewatch.Recheck + 50*time.Millisecond)
	if got := describeIn(testContext(t), through(), "one"); got != codes.OK { // a connection made after the change
		t.Fatal(got)
	}
	if got := <-shown; got != "/next" {
		t.Errorf("after rotation: %s", got)
	}
}

// TestTLSVersions: nobody talks an old one to a listener.
func TestTLSVersions(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	ca.issue(t, dir, "server", "localhost", "")
	server, err := filewatch.ServerTLS(slog.New(slog.DiscardHandler), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), "", "h2")
	if err != nil {
		t.Fatal(err)
	}
	f := &frontend{}
	startFrontend(t, f)
	p := startProxy(t, f, func(o *Options) { o.Listeners[0].TLS = server })
	conn, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: ca.pool(), ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
}
