package providers

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const awsRegion = "eu-central-1"

var awsKMS = provider{
	name:    "AWS KMS",
	start:   startAWS,
	binds:   "the service, as encryption context",
	forging: "the key in the service",
	outage:  "error codes, and `DescribeKey` for states that pass",
	rotates: "opens",
	needs:   "`kms:GenerateDataKey`, `kms:Decrypt`, `kms:DescribeKey`",
	against: "a stub written from the API reference; moto 5.2.5 by `make test-kms`",
}

func startAWS(t *testing.T) *peer {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	stub := kmsstub.New(kmsstub.Options{Region: awsRegion})
	if err := stub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stub.Close)
	client := kms.New(kms.Options{BaseEndpoint: aws.String(stub.URL), Region: awsRegion,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")})
	id, other := stub.CreateKey(false), stub.CreateKey(false)
	relay := newRelay(t, "tcp", stub.URL[len("http://"):])
	always := func(code string) func(*testing.T) func() {
		return func(*testing.T) func() {
			stub.Always("", kmsstub.Fault{Error: code})
			return stub.Heal
		}
	}
	return &peer{
		uri: "awskms://" + id + "?region=" + awsRegion + "&endpoint=http://" + relay.address, key: id, relay: relay,
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String(other), Plaintext: plain, EncryptionContext: kc.EncryptionContext()})
			if err != nil {
				t.Fatal(err)
			}
			return out.CiphertextBlob
		},
		disable: func(*testing.T) func() {
			stub.SetState(id, kmsstub.Disabled)
			return func() { stub.SetState(id, kmsstub.Enabled) }
		},
		deny: always("AccessDeniedException"), throttle: always("ThrottlingException"), expire: always("ExpiredTokenException"),
		skew: always("InvalidSignatureException"), // "Signature not yet current"
		rotate: func(t *testing.T) {
			if _, err := client.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: aws.String(id)}); err != nil {
				t.Fatal(err)
			}
		},
	}
}
