package contract

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchpb "go.temporal.io/api/batch/v1"
	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

const (
	ownToken  = "token-of-the-own-team-0123456789"
	wideToken = "token-of-everybody-0123456789abc"
)

// Listeners of the callers' rig, by their place in its config.
const (
	byToken = iota
	byJWT
	byAnybody
	byCertificate
)

var issuer = newSigner()

var callers = shared(func(dir string) (setup, error) {
	write := func(name, text string) (string, error) {
		path := filepath.Join(dir, name)
		return path, os.WriteFile(path, []byte(text), 0o600)
	}
	own, err := write("own.token", ownToken)
	if err != nil {
		return setup{}, err
	}
	wide, err := write("wide.token", wideToken)
	if err != nil {
		return setup{}, err
	}
	keys, err := write("jwks.json", issuer.keySet())
	if err != nil {
		return setup{}, err
	}
	if authority, err = newAuthority(dir); err != nil {
		return setup{}, err
	}
	return setup{
		listeners: fmt.Sprintf(`  - name: tokens
    address: 127.0.0.1:0
    callers: {token: {tokens: [{subject: own, file: %q, namespaces: ["own-*"]}, {subject: wide, file: %q}]}}
  - name: people
    address: 127.0.0.1:0
    callers: {jwt: {issuer: "https://login.example.com/", audience: temporal-seal, jwks_file: %q, namespaces_claim: spaces}}
  - name: anybody
    address: 127.0.0.1:0
    callers: {anonymous: {namespaces: ["own-*"]}}
  - name: certificates
    address: 127.0.0.1:0
    tls: {cert_file: %q, key_file: %q}
    callers: {mtls: {ca_file: %q, names: [{name: "spiffe://example.com/own", namespaces: ["own-*"]}]}}
`, own, wide, keys, authority.serverCert, authority.serverKey, authority.file),
		policy: `package temporal

response contains {"action": "open"}

request contains {"action": "accept"} if input.namespace == "own-accepting"
`,
		extra: fmt.Sprintf(`services: [example.v1.Extra]
codec_server: {address: "127.0.0.1:0", allowed_origins: ["https://ui.example.com"], callers: {token: {tokens: [{subject: own, file: %q, namespaces: ["own-*"]}]}}}
`, own),
	}, nil
})

func (r *rig) dial(t *testing.T, listener int) *blackbox.Client {
	t.Helper()
	c, err := blackbox.Dial(r.listeners[listener])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// signalAs sends a signal with a payload, as whoever a token stands for.
func (r *rig) signalAs(t *testing.T, c *blackbox.Client, token, namespace string, payloads ...*commonpb.Payload) exchange {
	t.Helper()
	return r.doVia(t, c, blackbox.Request{Method: "SignalWorkflowExecution", Token: token, Body: blackbox.Marshal(
		&workflowservice.SignalWorkflowExecutionRequest{
			Namespace:         namespace,
			WorkflowExecution: execution("w"),
			Input:             list(payloads...),
		},
	)})
}

// TestAuthenticationComesFirst: callers without credentials are refused before anything of their request is waited for,
// whatever they call. Only the proxy's own health is free.
func TestAuthenticationComesFirst(t *testing.T) {
	t.Parallel()
	r := callers(t)
	cc, err := grpc.NewClient(r.listeners[byToken], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, method := range []string{
		"/temporal.api.workflowservice.v1.WorkflowService/SignalWorkflowExecution",
		"/temporal.api.workflowservice.v1.WorkflowService/PollWorkflowTaskQueue",
		"/temporal.api.workflowservice.v1.WorkflowService/NotYetInvented",
		"/example.v1.Extra/Do",
		"/example.v1.Other/Do",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	} {
		stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err == nil {
			err = stream.RecvMsg(new(emptypb.Empty))
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", method, err)
		}
	}
	health := healthpb.NewHealthClient(cc)
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "temporal.api.workflowservice.v1.WorkflowService"}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("health of the frontend: %v", err)
	}
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health of the proxy: %v", err)
	}
	long := strings.Repeat("x", 5<<10)
	if _, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: long}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large health request: %v", err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	r := callers(t)
	c := r.dial(t, byToken)
	for _, good := range []struct{ token, namespace string }{{ownToken, "own-1"}, {ownToken, "own-"}, {wideToken, "other"}, {wideToken, "own-1"}} {
		e := r.signalAs(t, c, good.token, good.namespace, text("CANARY"))
		e.want(t, "OK")
		md := e.forwarded(t, "SignalWorkflowExecution").Metadata
		if v := md.Get("authorization"); len(v) > 0 {
			t.Errorf("the caller's token was forwarded")
		}
	}
	for _, namespace := range []string{"other", "own", "OWN-1", "x-own-1", ""} {
		r.signalAs(t, c, ownToken, namespace, text("CANARY")).refused(t, "PermissionDenied")
	}
	for _, token := range []string{"", "wrong", ownToken + "x", ownToken[:len(ownToken)-1], strings.ToUpper(ownToken)} {
		r.signalAs(t, c, token, "own-1", text("CANARY")).refused(t, "Unauthenticated")
	}
	two := r.doVia(
		t,
		c,
		blackbox.Request{
			Method:   "SignalWorkflowExecution",
			Metadata: metadata.Pairs("authorization", "Bearer "+ownToken, "authorization", "Bearer wrong"),
			Body:     blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: "own-1"}),
		},
	)
	two.refused(t, "Unauthenticated")
	// Methods without payloads are no exception.
	for _, method := range []string{"GetSystemInfo", "DescribeTaskQueue", blackbox.OperatorService + "ListNexusEndpoints"} {
		r.doVia(t, c, blackbox.Request{Method: method}).refused(t, "Unauthenticated")
	}
}

func TestJWTs(t *testing.T) {
	t.Parallel()
	r := callers(t)
	c := r.dial(t, byJWT)
	claims := func(change map[string]any) map[string]any {
		all := map[string]any{
			"iss":    "https://login.example.com/",
			"aud":    "temporal-seal",
			"sub":    "alice",
			"spaces": []string{"own-1"},
			"iat":    time.Now().Unix(),
			"exp":    time.Now().Add(time.Hour).Unix(),
		}
		for k, v := range change {
			if v == nil {
				delete(all, k)
				continue
			}
			all[k] = v
		}
		return all
	}
	good := issuer.sign(nil, claims(nil))
	e := r.signalAs(t, c, good, "own-1", text("CANARY"))
	e.want(t, "OK")
	if v := e.forwarded(t, "SignalWorkflowExecution").Metadata.Get("authorization"); len(v) > 0 {
		t.Error("the caller's token was forwarded")
	}
	r.signalAs(t, c, good, "own-2", text("CANARY")).refused(t, "PermissionDenied")
	for name, token := range map[string]string{
		"expired":              issuer.sign(nil, claims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})),
		"without expiry":       issuer.sign(nil, claims(map[string]any{"exp": nil})),
		"not valid yet":        issuer.sign(nil, claims(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})),
		"for another audience": issuer.sign(nil, claims(map[string]any{"aud": "another"})),
		"without audience":     issuer.sign(nil, claims(map[string]any{"aud": nil})),
		"of another issuer":    issuer.sign(nil, claims(map[string]any{"iss": "https://evil.example.com/"})),
		"of another key":       newSigner().sign(nil, claims(nil)),
		"without signature":    issuer.sign(map[string]any{"alg": "none"}, claims(nil)),
		"under the public key": issuer.sign(map[string]any{"alg": "HS256"}, claims(nil)),
		"changed":              good[:len(good)-4] + "AAAA",
		"none at all":          "",
	} {
		if e := r.signalAs(t, c, token, "own-1", text("CANARY")); e.Code() != "Unauthenticated" || len(e.requests()) > 0 {
			t.Errorf("a token %s: %s, %d requests reached the frontend", name, e.Code(), len(e.requests()))
		}
	}
	for name, spaces := range map[string]any{"a star": []string{"*"}, "a pattern": []string{"own-*"}, "nothing": []string{}, "an object": map[string]any{"own-1": true}, "no claim": nil} {
		if e := r.signalAs(t, c, issuer.sign(nil, claims(map[string]any{"spaces": spaces})), "own-1", text("CANARY")); e.Code() != "PermissionDenied" ||
			len(e.requests()) > 0 {
			t.Errorf("a token that grants %s: %s, %d requests reached the frontend", name, e.Code(), len(e.requests()))
		}
	}
}

// Without an identity a caller reaches the namespaces of its listener, by certificate those of its name.
func TestAnonymousCallersAndCertificates(t *testing.T) {
	t.Parallel()
	r := callers(t)
	c := r.dial(t, byAnybody)
	r.signalAs(t, c, "", "own-1", text("CANARY")).want(t, "OK")
	r.signalAs(t, c, "", "other", text("CANARY")).refused(t, "PermissionDenied")
	for name, want := range map[string]string{"spiffe://example.com/own": "OK", "cn:spiffe://example.com/own": "PermissionDenied",
		"spiffe://example.com/own/x": "PermissionDenied", "spiffe://example.com/ow": "PermissionDenied"} {
		if code := r.withCertificate(t, name, "own-1"); code != want {
			t.Errorf("with a certificate for %s: %s, want %s", name, code, want)
		}
	}
	if code := r.withCertificate(t, "spiffe://example.com/own", "other"); code != "PermissionDenied" {
		t.Errorf("a certificate outside of its namespaces: %s", code)
	}
	for _, name := range []string{"", "stranger:spiffe://example.com/own"} {
		if code := r.withCertificate(t, name, "own-1"); code == "OK" {
			t.Errorf("with certificate %q the call went through", name)
		}
	}
}

// No method lets a caller past its namespaces.
func TestNoMethodReachesOtherNamespaces(t *testing.T) {
	t.Parallel()
	r := callers(t)
	c := r.dial(t, byToken)
	free := map[protoreflect.Name]bool{"GetSystemInfo": true, "GetClusterInfo": true, "ListNamespaces": true}
	for _, m := range methods(t) {
		q := put(m.Input(), nil, nil)
		if f := m.Input().Fields().ByName("namespace"); f != nil && f.Kind() == protoreflect.StringKind {
			q.ProtoReflect().Set(f, protoreflect.ValueOfString("foreign"))
		}
		e := r.doVia(t, c, blackbox.Request{Method: fullName(m), Token: ownToken, Body: blackbox.Marshal(q)})
		want, forwarded := "PermissionDenied", 0
		if free[m.Name()] {
			want, forwarded = "OK", 1
		}
		if n := len(r.Of(e.call)); e.Code() != want || n != forwarded {
			t.Errorf("%s for another namespace: %s, %d requests reached the frontend", m.Name(), e.Code(), n)
		}
	}
	// A namespace may not be named by its id, past the field that is checked.
	for method, q := range map[string]proto.Message{
		"DescribeNamespace":                                   &workflowservice.DescribeNamespaceRequest{Namespace: "own-1", Id: "0000"},
		blackbox.OperatorService + "DeleteNamespace":          &operatorservice.DeleteNamespaceRequest{Namespace: "own-1", NamespaceId: "0000"},
		"/example.v1.Extra/Do":                                &workflowservice.DescribeNamespaceRequest{Namespace: "own-1"},
		blackbox.OperatorService + "ListClusters":             &operatorservice.ListClustersRequest{},
		blackbox.OperatorService + "AddOrUpdateRemoteCluster": &operatorservice.AddOrUpdateRemoteClusterRequest{},
	} {
		e := r.doVia(t, c, blackbox.Request{Method: method, Token: ownToken, Body: blackbox.Marshal(q)})
		if n := len(r.Of(e.call)); e.Code() != "PermissionDenied" || n > 0 {
			t.Errorf("%s: %s, %d requests reached the frontend", method, e.Code(), n)
		}
	}
	r.doVia(t, c, blackbox.Request{Method: "/example.v1.Extra/Do", Token: wideToken}).want(t, "OK")
	name := func(n string) *workflowservice.DescribeNamespaceResponse {
		return &workflowservice.DescribeNamespaceResponse{NamespaceInfo: &namespacepb.NamespaceInfo{Name: n}}
	}
	e := r.doVia(
		t,
		c,
		blackbox.Request{Method: "ListNamespaces", Token: ownToken},
		reply("ListNamespaces", &workflowservice.ListNamespacesResponse{
			NextPageToken: []byte(
				"next",
			), Namespaces: []*workflowservice.DescribeNamespaceResponse{name("other"), name("own-1"), name("secret")}}),
	)
	equal(
		t,
		"the list of namespaces",
		answered(t, e, new(workflowservice.ListNamespacesResponse)),
		&workflowservice.ListNamespacesResponse{
			NextPageToken: []byte("next"), Namespaces: []*workflowservice.DescribeNamespaceResponse{name("own-1")}},
	)
}

// What a request makes the server do elsewhere is checked as well: it acts with rights of its own.
func TestCommandsStayWithinReach(t *testing.T) {
	t.Parallel()
	r := callers(t)
	c := r.dial(t, byToken)
	commands := func(namespace string) []*commandpb.Command {
		return []*commandpb.Command{
			{
				CommandType: enumspb.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
				Attributes: &commandpb.Command_StartChildWorkflowExecutionCommandAttributes{
					StartChildWorkflowExecutionCommandAttributes: &commandpb.StartChildWorkflowExecutionCommandAttributes{
						Namespace:  namespace,
						WorkflowId: "w",
					}},
			},
			{
				CommandType: enumspb.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
				Attributes: &commandpb.Command_SignalExternalWorkflowExecutionCommandAttributes{
					SignalExternalWorkflowExecutionCommandAttributes: &commandpb.SignalExternalWorkflowExecutionCommandAttributes{
						Namespace:  namespace,
						SignalName: "s",
					}},
			},
			{
				CommandType: enumspb.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
				Attributes: &commandpb.Command_RequestCancelExternalWorkflowExecutionCommandAttributes{
					RequestCancelExternalWorkflowExecutionCommandAttributes: &commandpb.RequestCancelExternalWorkflowExecutionCommandAttributes{
						Namespace:  namespace,
						WorkflowId: "w",
					}},
			},
		}
	}
	complete := func(command *commandpb.Command) exchange {
		return r.doVia(t, c, blackbox.Request{Method: "RespondWorkflowTaskCompleted", Token: ownToken, Body: blackbox.Marshal(
			&workflowservice.RespondWorkflowTaskCompletedRequest{
				Namespace: "own-1",
				TaskToken: []byte("t"),
				Commands:  []*commandpb.Command{command},
			},
		)})
	}
	for _, namespace := range []string{"own-2", ""} {
		for _, command := range commands(namespace) {
			complete(command).wantNames(t, "RespondWorkflowTaskCompleted")
		}
	}
	for _, command := range commands("other") {
		e := complete(command)
		e.wantNames(t, "RespondWorkflowTaskFailed") // or the worker would run the task again and again
		if e.Code() == "OK" {
			t.Errorf("%s: the worker got OK", command.CommandType)
		}
	}
	for namespace, code := range map[string]string{"own-1": "OK", "other": "PermissionDenied"} {
		e := r.doVia(
			t,
			c,
			blackbox.Request{
				Method: "ExecuteMultiOperation",
				Token:  ownToken,
				Body: blackbox.Marshal(&workflowservice.ExecuteMultiOperationRequest{
					Namespace: "own-1", Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{
						StartWorkflow: &workflowservice.StartWorkflowExecutionRequest{
							Namespace:  namespace,
							WorkflowId: "w",
							Input:      list(text("CANARY")),
						}}}}}),
			},
		)
		if e.Code() != code || code != "OK" && len(e.requests()) > 0 {
			t.Errorf("an operation in namespace %s: %s, %d requests reached the frontend", namespace, e.Code(), len(e.requests()))
		}
	}
	batch := r.doVia(
		t,
		c,
		blackbox.Request{
			Method: "StartBatchOperation",
			Token:  ownToken,
			Body: blackbox.Marshal(&workflowservice.StartBatchOperationRequest{Namespace: "other",
				Operation: &workflowservice.StartBatchOperationRequest_SignalOperation{
					SignalOperation: &batchpb.BatchOperationSignal{Signal: "s", Input: list(text("CANARY"))},
				}}),
		},
	)
	batch.refused(t, "PermissionDenied")
}

// `accept` takes what an authenticated worker sealed itself for this namespace, and nothing else.
func TestAccept(t *testing.T) {
	t.Parallel()
	r := callers(t)
	known, unknown := r.dial(t, byToken), r.dial(t, byAnybody)
	clear := text("CANARY")
	sealIn := func(namespace string) *commonpb.Payload {
		return signaled(t, r.signalAs(t, known, wideToken, namespace, clear))[0]
	}
	own, others := sealIn("own-accepting"), sealIn("other")
	equal(t, "what the worker sealed itself", signaled(t, r.signalAs(t, known, ownToken, "own-accepting", own))[0], own)
	changed := proto.CloneOf(own)
	changed.Data[len(changed.Data)-1] ^= 1
	for name, c := range map[string]struct {
		client  *blackbox.Client
		token   string
		payload *commonpb.Payload
	}{
		"an anonymous caller's":      {unknown, "", own},
		"another namespace's":        {known, ownToken, others},
		"a changed one":              {known, ownToken, changed},
		"one that is not sealed":     {known, ownToken, clear},
		"one with the marker alone":  {known, ownToken, &commonpb.Payload{Metadata: own.Metadata}},
		"one with the marker on top": {known, ownToken, &commonpb.Payload{Metadata: own.Metadata, Data: clear.Data}},
	} {
		got := signaled(t, r.signalAs(t, c.client, c.token, "own-accepting", c.payload))[0]
		if proto.Equal(got, c.payload) || bytes.Equal(got.Data, c.payload.Data) {
			t.Errorf("%s was taken as it is", name)
		}
	}
}
