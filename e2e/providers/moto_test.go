package providers

import (
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

var awsRole = provider{
	name:    "AWS KMS of another account, with `role_arn`",
	start:   startMoto,
	binds:   awsKMS.binds,
	forging: awsKMS.forging,
	outage:  awsKMS.outage,
	rotates: awsKMS.rotates,
	needs:   "the same for the role, and `sts:AssumeRole`",
	against: "KMS and STS of moto 5.2.5",
}

// motoRole is of an account in which the credentials of the proxy have no keys.
const motoRole = "arn:aws:iam::111122223333:role/seal"

func startMoto(t *testing.T) *peer {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	endpoint, moto, err := harness.StartMoto(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(moto.Kill)
	t.Setenv("AWS_ENDPOINT_URL_STS", endpoint)
	own := credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")
	roles := sts.New(sts.Options{BaseEndpoint: aws.String(endpoint), Region: awsRegion, Credentials: own})
	client := kms.New(kms.Options{BaseEndpoint: aws.String(endpoint), Region: awsRegion,
		Credentials: aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(roles, motoRole))})
	ids := make([]*string, 2)
	for i := range ids {
		made, err := client.CreateKey(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = made.KeyMetadata.KeyId
	}
	relay := newRelay(t, "tcp", endpoint[len("http://"):])
	return &peer{
		uri: "awskms://" + *ids[0] + "?region=" + awsRegion + "&role_arn=" + motoRole + "&external_id=seal&endpoint=http://" + relay.address,
		key: *ids[0], relay: relay,
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: ids[1], Plaintext: plain, EncryptionContext: kc.EncryptionContext()})
			if err != nil {
				t.Fatal(err)
			}
			return out.CiphertextBlob
		},
	}
}
