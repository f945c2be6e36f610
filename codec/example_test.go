package codec_test

import (
	"context"
	"fmt"
	"log"
	"os"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/codec"
)

// A client of the Temporal server itself, which seals with the proxy's keys. The failure converter seals the messages of
// failures, which would go to the server in clear without it.
func Example() {
	seal, err := codec.New(context.Background(), codec.Options{
		Namespace: "orders",
		Keys:      []codec.Key{{Name: "default", Active: "awskms://alias/temporal?region=eu-central-1"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer seal.Close()
	values := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), seal)
	c, err := client.Dial(client.Options{
		HostPort:      "temporal-frontend:7233",
		Namespace:     "orders",
		DataConverter: workflow.DataConverterWithoutDeadlockDetection(values),
		FailureConverter: temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
			DataConverter: values, EncodeCommonAttributes: true}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
}

// What Encode seals has the encoding binary/sealed.v1, and Decode returns the payload as it was.
func ExampleCodec_Encode() {
	file, err := os.CreateTemp("", "seal-*.key") // as `temporal-seal keys new` writes it
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(keyFile); err != nil {
		log.Fatal(err)
	}
	seal, err := codec.New(context.Background(), codec.Options{
		Namespace: "orders",
		Keys:      []codec.Key{{Name: "default", Active: "local:" + file.Name()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer seal.Close()
	sealed, err := seal.Encode([]*commonpb.Payload{{
		Metadata: map[string][]byte{"encoding": []byte("json/plain")},
		Data:     []byte(`"Maren Holtby"`),
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(sealed[0].Metadata["encoding"]))
	opened, err := seal.Decode(sealed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(opened[0].Data))
	// Output:
	// binary/sealed.v1
	// "Maren Holtby"
}

// keyFile is a key file for this example alone: everybody knows the key.
const keyFile = `temporal-seal-key-file 1
id 00112233445566778899aabbccddeeff
key k1 2026-01-01T00:00:00Z AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
`
