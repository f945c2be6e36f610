package formats

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

const readsProxies = `foreign:
  - {namespaces: [default], format: temporal-sa, kms: "awskms://alias/old?region=eu-central-1&endpoint={kms}"}
  - {namespaces: [default], format: temporal-proxy, kms: "awskms://alias/old?region=eu-central-1&endpoint={kms}"}
`

// TestOtherProxies: payloads of the proxies that others wrote, whose data keys AWS KMS wrapped, open through this one.
func TestOtherProxies(t *testing.T) {
	stub := kmsstub.New(kmsstub.Options{})
	stub.SetAlias("alias/old", stub.CreateKey(false))
	if err := stub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stub.Close)
	keys := kms.New(kms.Options{BaseEndpoint: aws.String(stub.URL), Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")})
	s := newSite(t, "", strings.ReplaceAll(readsProxies, "{kms}", stub.URL), "", "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")
	plain := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"` + secret + `"`)}
	seal := func(key, aad []byte, meta map[string][]byte) *commonpb.Payload {
		t.Helper()
		block, err := aes.NewCipher(key)
		s.ok(err)
		gcm, err := cipher.NewGCM(block)
		s.ok(err)
		raw, err := proto.Marshal(plain)
		s.ok(err)
		nonce := make([]byte, gcm.NonceSize())
		rand.Read(nonce)
		meta["encoding"] = []byte("binary/encrypted")
		return &commonpb.Payload{Metadata: meta, Data: gcm.Seal(nonce, nonce, raw, aad)}
	}
	// temporal-sa: GenerateDataKey with a context of three members, and associated data in JSON.
	made, err := keys.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/old"), KeySpec: types.DataKeySpecAes256,
		EncryptionContext: map[string]string{"purpose": "encryption-key-auth", "encryptionKeyID": "alias/old", "namespace": namespace}})
	s.ok(err)
	sa := seal(made.Plaintext, []byte(`{"encryptionKeyID":"alias/old","namespace":"default","purpose":"payload-auth"}`),
		map[string][]byte{"encryption-key-id": []byte("alias/old"), "encrypted-data-key": made.CiphertextBlob})
	// Temporal's own: a key of its own, encrypted without a context.
	dek := make([]byte, 32)
	rand.Read(dek)
	wrapped, err := keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String("alias/old"), Plaintext: dek})
	s.ok(err)
	own := seal(dek, nil, map[string][]byte{"encryption-key-id": []byte("awskms:///alias/old?region=eu-central-1"),
		"encryption-dek": []byte(base64.StdEncoding.EncodeToString(wrapped.CiphertextBlob))})
	planted := proto.Clone(own).(*commonpb.Payload)
	planted.Metadata["encryption-dek"] = []byte(base64.StdEncoding.EncodeToString(made.CiphertextBlob)) // wrapped in another context

	direct, through := s.dial(server.Address, ""), s.dial(s.proxy.Address, "")
	for name, p := range map[string]*commonpb.Payload{"temporal-sa": sa, "temporal-proxy": own, "planted": planted} {
		id := t.Name() + "-" + name
		_, err := direct.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: s.queue}, "Admission", converter.NewRawValue(p))
		s.ok(err)
		e, err := through.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT).Next()
		if name == "planted" {
			if err == nil {
				t.Errorf("planted opened to %v", e)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := e.GetWorkflowExecutionStartedEventAttributes().Input.Payloads[0]; !proto.Equal(got, plain) {
			t.Errorf("%s opened to %v", name, got)
		}
	}
}
