// Package vault runs the product with its keys in the transit engine of OpenBao, which has HashiCorp Vault's API.
package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/codec"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const namespace = "default"

// permissions are those of docs/keys.md.
const permissions = `
path "transit/encrypt/seal" { capabilities = ["update"] }
path "transit/decrypt/seal" { capabilities = ["update"] }
path "transit/keys/seal" { capabilities = ["read"] }
`

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

// vault is a server with a transit key, and a token for the proxy in a file.
type vault struct {
	*harness.OpenBao
	t     *testing.T
	token string // file
	uri   string
}

func start(t *testing.T) *vault {
	t.Helper()
	if os.Getenv("SEAL_VAULT_PEER") == "" {
		t.Skip("make test-vault runs this: it needs python3, and PyPI the first time")
	}
	dir := t.TempDir()
	bao, err := harness.StartOpenBao(t.Context(), dir, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bao.Stop() })
	v := &vault{OpenBao: bao, t: t, token: filepath.Join(dir, "token")}
	v.uri = fmt.Sprintf("vault://%s/transit/seal?name=main&ca_file=%s&token_file=%s", bao.Host, bao.Authority, v.token)
	v.must(http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"}, nil)
	v.must(http.MethodPost, "transit/keys/seal", map[string]any{}, nil)
	v.must(http.MethodPut, "sys/policies/acl/proxy", map[string]any{"policy": permissions}, nil)
	v.newToken()
	return v
}

func (v *vault) must(method, path string, in, out any) {
	v.t.Helper()
	if err := v.Call(v.t.Context(), method, path, in, out); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vault) newToken() {
	v.t.Helper()
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	v.must(http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"proxy"}}, &made)
	if err := os.WriteFile(v.token, []byte(made.Auth.Token+"\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vault) codec(namespace string) (*codec.Codec, error) {
	c, err := codec.New(v.t.Context(), codec.Options{Namespace: namespace, Keys: []codec.Key{{Name: "default", Active: v.uri}}})
	if err == nil {
		v.t.Cleanup(c.Close)
	}
	return c, err
}

func plain(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}
}

func client(t *testing.T, address string) workflowservice.WorkflowServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

// TestSealedWithVault: what is started through the proxy stands sealed at the server, comes back, opens elsewhere with the
// same key, and goes on opening when the key was rotated and while the server is away.
func TestSealedWithVault(t *testing.T) {
	v := start(t)
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{namespace}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	proxy, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: t.TempDir(), Upstream: server.Address,
		Keys: []harness.KeyOption{{Name: "default", Active: v.uri}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Stop() })
	through, direct := client(t, proxy.Address), client(t, server.Address)

	begin := func(id, secret string) {
		t.Helper()
		_, err := through.StartWorkflowExecution(t.Context(), &workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: id, RequestId: id,
			WorkflowType: &commonpb.WorkflowType{Name: "w"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "q"},
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{plain(secret)}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	input := func(c workflowservice.WorkflowServiceClient, id string) *commonpb.Payload {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		h, err := c.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: namespace,
			Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
		if err != nil {
			t.Fatal(err)
		}
		return h.History.Events[0].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]
	}
	check := func(id, secret string) {
		t.Helper()
		if got := input(through, id); string(got.Data) != secret {
			t.Errorf("%s through the proxy: %v", id, got)
		}
		if got := input(direct, id); string(got.Metadata["encoding"]) != "binary/sealed.v1" || bytes.Contains(got.Data, []byte(secret)) || !bytes.Contains(got.Data, []byte("vault:v")) {
			t.Errorf("%s at the server: %v", id, got)
		}
	}
	begin("before", `"Ada"`)
	check("before", `"Ada"`)

	c, err := v.codec(namespace)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Decode([]*commonpb.Payload{input(direct, "before")}); err != nil || string(got[0].Data) != `"Ada"` {
		t.Errorf("opened elsewhere: %v, %v", got, err)
	}
	v.must(http.MethodPost, "transit/keys/seal/rotate", nil, nil)
	v.newToken()
	fresh, err := v.codec(namespace) // knows no data key yet
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fresh.Decode([]*commonpb.Payload{input(direct, "before")}); err != nil || string(got[0].Data) != `"Ada"` {
		t.Errorf("after a rotation: %v, %v", got, err)
	}
	if err := v.Stop(); err != nil {
		t.Logf("OpenBao ended with %v", err)
	}
	begin("away", `"Grace"`)
	check("away", `"Grace"`)
	check("before", `"Ada"`)
}

// TestBoundInVault: the server itself refuses a data key for another namespace.
func TestBoundInVault(t *testing.T) {
	v := start(t)
	c, err := v.codec(namespace)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.Encode([]*commonpb.Payload{plain("1")})
	if err != nil {
		t.Fatal(err)
	}
	data := sealed[0].Data
	at := bytes.Index(data, []byte("vault:v1:"))
	size := int(data[29])<<8 | int(data[30]) // of the wrapped key: docs/design.md
	wrapped := string(data[at : at+size])
	for name, aad := range map[string][]byte{"nothing": nil, "another namespace": []byte("temporal-seal/v1/vault\x00other")} {
		err := v.Call(t.Context(), http.MethodPost, "transit/decrypt/seal", map[string]string{"ciphertext": wrapped,
			"associated_data": base64.StdEncoding.EncodeToString(aad)}, nil)
		if err == nil || !strings.Contains(err.Error(), "message authentication failed") {
			t.Errorf("bound to %s: %v", name, err)
		}
	}
	if n := len(wrapped); n > 128 {
		t.Errorf("a wrapped key has %d bytes", n)
	}
}

// TestVaultRefuses: at the start, in words that tell what to do.
func TestVaultRefuses(t *testing.T) {
	v := start(t)
	try := func(name, want string) {
		t.Helper()
		if _, err := v.codec(namespace); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", name, err, want)
		}
	}
	good := v.uri
	v.uri = strings.Replace(good, "/seal?", "/other?", 1)
	try("a key that the token may not use", "permission denied")
	v.must(http.MethodPut, "sys/policies/acl/proxy", map[string]any{"policy": strings.ReplaceAll(permissions, "/seal", "/*")}, nil)
	try("a key that is not there", "vault write -f transit/keys/other")
	v.must(http.MethodPost, "transit/keys/other", map[string]any{"type": "ed25519"}, nil)
	try("a key for signatures", "ed25519")
	v.uri = good
	if err := os.WriteFile(v.token, []byte("s.nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	try("a token that is none", "permission denied")
	v.newToken()
	v.must(http.MethodPost, "transit/keys/seal/config", map[string]any{"deletion_allowed": true}, nil)
	v.must(http.MethodDelete, "transit/keys/seal", nil, nil)
	try("a key that was deleted", "vault write -f transit/keys/seal")
}
