// Package kms tests the built proxy with keys from a KMS, in front of a real Temporal server. The tests of this file
// set up keys by AWS's own client and run against any KMS that speaks the protocol: the stub of this repository, or with
// SEAL_KMS_PEER=moto the emulator moto, so that the proxy is not judged by our own reading of the protocol alone.
package kms

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const region = "eu-central-1"

// world is what all tests share: one Temporal server, and moto if that was asked for.
var world struct {
	upstream string
	moto     string
}

func TestMain(m *testing.M) {
	code := 1
	if err := startWorld(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	harness.RemoveProxy()
	os.Exit(code)
}

func startWorld(run func()) error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := harness.StartTemporal(ctx, peers.TemporalOptions{
		DBFile: filepath.Join(dir, "temporal.db"), Namespaces: []string{"default", "other"},
	})
	if err != nil {
		return err
	}
	world.upstream = server.Address
	if os.Getenv("SEAL_KMS_PEER") == "moto" {
		endpoint, moto, err := harness.StartMoto(ctx, os.Stderr)
		if err != nil {
			return errors.Join(err, server.Stop())
		}
		world.moto = endpoint
		defer moto.Kill() // it has nothing to save
	}
	run()
	return server.Stop()
}

// peer is a KMS and AWS's client for it.
type peer struct {
	endpoint string
	stub     *kmsstub.Server // nil with moto
	client   *kms.Client
}

func startPeer(t *testing.T) *peer {
	t.Helper()
	p := &peer{endpoint: world.moto}
	if p.endpoint == "" {
		p.stub = kmsstub.New(kmsstub.Options{Region: region})
		if err := p.stub.Start("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.stub.Close)
		p.endpoint = p.stub.URL
	}
	p.client = kms.New(kms.Options{
		BaseEndpoint: aws.String(p.endpoint), Region: region,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
	})
	return p
}

// key makes a key with an alias of its own and returns its id and ARN.
func (p *peer) key(t *testing.T, alias string) (id, arn string) {
	t.Helper()
	made, err := p.client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String(alias), TargetKeyId: made.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	return *made.KeyMetadata.KeyId, *made.KeyMetadata.Arn
}

func (p *peer) uri(key string) string {
	return "awskms://" + key + "?region=" + region + "&endpoint=" + p.endpoint
}

// alias is a name that no other test uses: moto keeps all of them.
func alias(t *testing.T) string {
	return "alias/" + strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
}

func (p *peer) proxyOptions(t *testing.T, keys ...harness.KeyOption) harness.ProxyOptions {
	return harness.ProxyOptions{
		Dir: t.TempDir(), Upstream: world.upstream, Keys: keys,
		Env: []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"},
	}
}

// frontend is a connection to a Temporal frontend, or to a proxy in front of it.
type frontend struct {
	workflowservice.WorkflowServiceClient
	proxy *harness.Proxy
}

func (p *peer) proxy(t *testing.T, keys ...harness.KeyOption) frontend {
	t.Helper()
	started, err := harness.StartProxy(t.Context(), p.proxyOptions(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := started.Stop(); err != nil {
			t.Error(err)
		}
	})
	return frontend{connect(t, started.Address), started}
}

func connect(t *testing.T, address string) workflowservice.WorkflowServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

func plain(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + text + `"`)}
}

// start starts a workflow that nobody runs: its input and its memo are stored, and that is all these tests need.
func start(ctx context.Context, c workflowservice.WorkflowServiceClient, namespace, id string, input *commonpb.Payload) error {
	_, err := c.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: namespace, WorkflowId: id, RequestId: id, WorkflowType: &commonpb.WorkflowType{Name: "Stored"},
		TaskQueue: &taskqueuepb.TaskQueue{Name: "nobody"}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{input}},
		Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"copy": input}},
	})
	return err
}

// stored reads a workflow's input.
func stored(t *testing.T, c workflowservice.WorkflowServiceClient, namespace, id string) *commonpb.Payload {
	t.Helper()
	answer, err := c.GetWorkflowExecutionHistory(t.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	if err != nil {
		t.Fatalf("history of %s: %v", id, err)
	}
	return answer.History.Events[0].GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]
}

// memo reads the copy of the input. It comes in a description, where what can't be opened stays sealed; a history, which
// workers replay, comes whole or not at all.
func memo(t *testing.T, c workflowservice.WorkflowServiceClient, namespace, id string) *commonpb.Payload {
	t.Helper()
	answer, err := c.DescribeWorkflowExecution(t.Context(), &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	if err != nil {
		t.Fatalf("description of %s: %v", id, err)
	}
	return answer.WorkflowExecutionInfo.Memo.Fields["copy"]
}

// staysShut checks that a payload of the server's reaches nobody in clear: not in a history, which is refused, and not
// in a description, which holds it as the server does.
func staysShut(t *testing.T, c workflowservice.WorkflowServiceClient, namespace, id string, code codes.Code) {
	t.Helper()
	_, err := c.GetWorkflowExecutionHistory(t.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	if status.Code(err) != code {
		t.Errorf("history of %s: %v, want %s", id, err, code)
	}
	if got, want := memo(t, c, namespace, id), memo(t, direct(t), namespace, id); !proto.Equal(got, want) {
		t.Errorf("memo of %s came back as %v", id, got)
	}
}

// direct is the server past any proxy.
func direct(t *testing.T) workflowservice.WorkflowServiceClient {
	t.Helper()
	return connect(t, world.upstream)
}

func sealed(t *testing.T, p *commonpb.Payload) envelope {
	t.Helper()
	if string(p.Metadata["encoding"]) != "binary/sealed.v1" {
		t.Fatalf("the server holds a payload with encoding %q", p.Metadata["encoding"])
	}
	return parse(t, p.Data)
}

func opens(t *testing.T, c workflowservice.WorkflowServiceClient, namespace, id string, want *commonpb.Payload) {
	t.Helper()
	if got := stored(t, c, namespace, id); !proto.Equal(got, want) {
		t.Errorf("%s came back as %v, want %v", id, got, want)
	}
}

// envelope is the format, read a second time from its description and without any code of the product.
type envelope struct {
	header             []byte
	flags              byte
	keyName, namespace string
	keyID, kek         []byte
	wrapped            []byte
	nonce, ciphertext  []byte
}

func parse(t *testing.T, b []byte) envelope {
	t.Helper()
	if len(b) < 31+12+16 || b[0] != 1 || b[1]&0x30 != 0 {
		t.Fatalf("not a self-contained envelope of version 1: % x...", b[:min(len(b), 8)])
	}
	l1, l2, l3 := int(b[26]), int(binary.BigEndian.Uint16(b[27:])), int(binary.BigEndian.Uint16(b[29:]))
	h := 31 + l1 + l2 + l3
	if len(b) < h+12+16 {
		t.Fatalf("an envelope of %d bytes, whose header alone takes %d", len(b), h)
	}
	return envelope{
		header: b[:h], flags: b[1], keyID: b[2:18], kek: b[18:26],
		keyName: string(b[31 : 31+l1]), namespace: string(b[31+l1 : 31+l1+l2]), wrapped: b[31+l1+l2 : h],
		nonce: b[h : h+12], ciphertext: b[h+12:],
	}
}

// open opens an envelope of form 0 with an unwrapped data key.
func (e envelope) open(t *testing.T, dataKey []byte) *commonpb.Payload {
	t.Helper()
	use := "\x00" + string([]byte{byte(len(e.keyName))}) + e.keyName +
		string(binary.BigEndian.AppendUint16(nil, uint16(len(e.namespace)))) + e.namespace
	id, err := hkdf.Expand(sha256.New, dataKey, "temporal-seal/v1/id\x00"+use, 16)
	if err != nil || !bytes.Equal(id, e.keyID) {
		t.Fatalf("the data key is not the one that the envelope names: %v", err)
	}
	key, err := hkdf.Expand(sha256.New, dataKey, "temporal-seal/v1/seal\x00"+use, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	text, err := aead.Open(nil, e.nonce, e.ciphertext, e.header)
	if err != nil {
		t.Fatal(err)
	}
	if e.flags&8 != 0 { // padded
		text = bytes.TrimRight(text, "\x00")
		text = text[:len(text)-1]
	}
	p := new(commonpb.Payload)
	if err := proto.Unmarshal(text, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOpensWithAWSClient: what the server holds can be opened with AWS's client and the published format alone, and
// only under the encryption context of its namespace and key name.
func TestOpensWithAWSClient(t *testing.T) {
	p := startPeer(t)
	id, _ := p.key(t, alias(t))
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	want := plain("a patient's name")
	if err := start(t.Context(), c, "default", t.Name(), want); err != nil {
		t.Fatal(err)
	}
	e := sealed(t, stored(t, direct(t), "default", t.Name()))
	if e.keyName != "default" || e.namespace != "default" {
		t.Errorf("envelope of key %q in namespace %q", e.keyName, e.namespace)
	}
	good := map[string]string{"temporal-seal:namespace": "default", "temporal-seal:key": "default"}
	out, err := p.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: e.wrapped, EncryptionContext: good, KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	if got := e.open(t, out.Plaintext); !proto.Equal(got, want) {
		t.Errorf("opened to %v", got)
	}
	for _, bad := range []map[string]string{nil, {"temporal-seal:namespace": "other", "temporal-seal:key": "default"}, {"temporal-seal:namespace": "default"}} {
		var invalid *types.InvalidCiphertextException
		if _, err := p.client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: e.wrapped, EncryptionContext: bad}); !errors.As(err, &invalid) {
			t.Errorf("context %v: %v, want InvalidCiphertextException", bad, err)
		}
	}
}

// TestNamesOfAKey: a key may be configured by id, ARN and alias; proxies that name it differently read each other.
func TestNamesOfAKey(t *testing.T) {
	p := startPeer(t)
	id, arn := p.key(t, alias(t))
	aliasARN := strings.Replace(arn, "key/"+id, alias(t), 1)
	var proxies []frontend
	for _, name := range []string{id, arn, alias(t), aliasARN} {
		proxies = append(proxies, p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(name)}))
	}
	for i, c := range proxies {
		if err := start(t.Context(), c, "default", fmt.Sprint(t.Name(), i), plain("x")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range proxies {
		for _, c := range proxies {
			opens(t, c, "default", fmt.Sprint(t.Name(), i), plain("x"))
		}
	}
}

// TestKeyMaterialIsRotated: a rotation on KMS's side is invisible.
func TestKeyMaterialIsRotated(t *testing.T) {
	p := startPeer(t)
	id, _ := p.key(t, alias(t))
	key := harness.KeyOption{Name: "default", Active: p.uri(alias(t))}
	if err := start(t.Context(), p.proxy(t, key), "default", t.Name()+"1", plain("before")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	c := p.proxy(t, key) // with no data key in memory
	if err := start(t.Context(), c, "default", t.Name()+"2", plain("after")); err != nil {
		t.Fatal(err)
	}
	opens(t, c, "default", t.Name()+"1", plain("before"))
	opens(t, c, "default", t.Name()+"2", plain("after"))
}

// TestKeyIsReplaced: a new key seals, the old one still opens; without it the payload stays sealed.
func TestKeyIsReplaced(t *testing.T) {
	p := startPeer(t)
	p.key(t, alias(t)+"-old")
	p.key(t, alias(t)+"-new")
	old, fresh := p.uri(alias(t)+"-old"), p.uri(alias(t)+"-new")
	if err := start(t.Context(), p.proxy(t, harness.KeyOption{Name: "default", Active: old}), "default", t.Name()+"1", plain("old")); err != nil {
		t.Fatal(err)
	}
	both := p.proxy(t, harness.KeyOption{Name: "default", Active: fresh, OpenOnly: []string{old}})
	if err := start(t.Context(), both, "default", t.Name()+"2", plain("new")); err != nil {
		t.Fatal(err)
	}
	opens(t, both, "default", t.Name()+"1", plain("old"))
	opens(t, both, "default", t.Name()+"2", plain("new"))

	without := p.proxy(t, harness.KeyOption{Name: "default", Active: fresh})
	opens(t, without, "default", t.Name()+"2", plain("new"))
	staysShut(t, without, "default", t.Name()+"1", codes.FailedPrecondition)
}

// TestNamespacesAreApart: an envelope carried into another namespace is not opened there.
func TestNamespacesAreApart(t *testing.T) {
	p := startPeer(t)
	p.key(t, alias(t))
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	if err := start(t.Context(), c, "default", t.Name(), plain("of the one")); err != nil {
		t.Fatal(err)
	}
	stolen := stored(t, direct(t), "default", t.Name())
	// Past the proxy, as somebody with access to the server would do it, and through it.
	if err := start(t.Context(), direct(t), "other", t.Name()+"-direct", stolen); err != nil {
		t.Fatal(err)
	}
	staysShut(t, c, "other", t.Name()+"-direct", codes.PermissionDenied)
	if err := start(t.Context(), c, "other", t.Name()+"-sent", stolen); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, c, "other", t.Name()+"-sent"); !proto.Equal(got, stolen) {
		t.Errorf("a stolen envelope came back as %v: the proxy opened more than it sealed", got)
	}
}

// TestTamperedEnvelope: any changed part keeps an envelope shut, and the good one beside it still opens.
func TestTamperedEnvelope(t *testing.T) {
	p := startPeer(t)
	p.key(t, alias(t))
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	if err := start(t.Context(), c, "default", t.Name(), plain("good")); err != nil {
		t.Fatal(err)
	}
	good := stored(t, direct(t), "default", t.Name())
	e := sealed(t, good)
	for what, offset := range map[string]int{
		"key id": 2, "kek": 18, "key name": 31, "wrapped key": len(e.header) - 1,
		"nonce": len(e.header), "ciphertext": len(e.header) + 12, "tag": len(good.Data) - 1,
	} {
		bad := proto.Clone(good).(*commonpb.Payload)
		bad.Data[offset] ^= 1
		id := t.Name() + "-" + what
		if err := start(t.Context(), direct(t), "default", id, bad); err != nil {
			t.Fatal(err)
		}
		want := codes.DataLoss
		if what == "kek" || what == "key name" { // it looks like an envelope of a key that the config lacks
			want = codes.FailedPrecondition
		}
		staysShut(t, c, "default", id, want)
		opens(t, c, "default", t.Name(), plain("good"))
	}
}

// TestUnknownKeyAtStart: a key that is not there does not keep the proxy from its start, but disables what needs it.
func TestUnknownKeyAtStart(t *testing.T) {
	p := startPeer(t)
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri("alias/nothing-here")})
	disabled(t, c, "alias/nothing-here", "NotFoundException")
}

// disabled checks that a proxy whose only key does not answer is not ready, names the key and the cause on /readyz and in
// its log, and neither seals nor forwards anything.
func disabled(t *testing.T, c frontend, key, cause string) {
	t.Helper()
	code, page, err := c.proxy.Get("/readyz")
	if err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d, %v, want 503: %s", code, err, page)
	}
	logged := ""
	for _, line := range c.proxy.Log.Lines() {
		if text, _ := line["msg"].(string); strings.HasPrefix(text, "a key does not answer") && line["level"] == "ERROR" {
			logged = fmt.Sprint(line["error"])
		}
	}
	for where, text := range map[string]string{"/readyz": page, "the log": logged} {
		if !strings.Contains(text, key) || !strings.Contains(text, cause) || strings.Contains(text, "goroutine") {
			t.Errorf("%s does not name %s and %s, or reports a crash: %q", where, key, cause, text)
		}
	}
	id := strings.ReplaceAll(t.Name(), "/", "-") + "-disabled"
	if err := start(t.Context(), c, "default", id, plain("never")); status.Code(err) != codes.Unavailable {
		t.Errorf("sealing with a key that does not answer: %v, want Unavailable", err)
	}
	notForwarded(t, id)
}

// worksAgain checks that a proxy takes up its key when it answers.
func worksAgain(t *testing.T, c frontend) {
	t.Helper()
	id := strings.ReplaceAll(t.Name(), "/", "-") + "-again"
	eventually(t, "sealing with the key that answers again", func() error { return start(t.Context(), c, "default", id, plain("again")) })
	sealed(t, stored(t, direct(t), "default", id))
	opens(t, c, "default", id, plain("again"))
	eventually(t, "the proxy is ready", func() error {
		code, page, err := c.proxy.Get("/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("/readyz answers %d: %s", code, page)
		}
		return err
	})
}

// TestManyAtOnce: calls that come together share one data key.
func TestManyAtOnce(t *testing.T) {
	p := startPeer(t)
	p.key(t, alias(t))
	c := p.proxy(t, harness.KeyOption{Name: "default", Active: p.uri(alias(t))})
	const calls = 200
	var wg sync.WaitGroup
	errs := make(chan error, calls)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range calls {
		wg.Go(func() { errs <- start(ctx, c, "default", fmt.Sprint(t.Name(), i), plain("x")) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	first := sealed(t, stored(t, direct(t), "default", t.Name()+"0")).keyID
	for i := range calls {
		if !bytes.Equal(sealed(t, stored(t, direct(t), "default", fmt.Sprint(t.Name(), i))).keyID, first) {
			t.Fatal("two data keys for one namespace and key")
		}
	}
	if p.stub != nil {
		count := map[string]int{}
		for _, call := range p.stub.Calls() {
			if call.AccessKeyID == "AKIATEST" {
				count[call.Op]++
			}
		}
		if count["GenerateDataKey"] != 1 || count["Decrypt"] > 1 {
			t.Errorf("%d calls needed %v of KMS", calls, count)
		}
	}
}
