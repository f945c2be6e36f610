package codec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newLocal(t *testing.T, change func(*Options)) *Codec {
	t.Helper()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	o := Options{Namespace: "clinic", Keys: []Key{{Name: "phi", Active: "local:" + file}, {Name: "default", Active: "local:" + file}}, Log: quiet}
	if change != nil {
		change(&o)
	}
	c, err := New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// golden is a carrier that some release of the proxy wrote.
type golden struct {
	Name, Namespace, Realm, Key string
	DataKey, Carrier, Plain     []byte
}

// frozen is the key service of a golden carrier.
type frozen struct{ golden }

func (f frozen) Ref() crypto.KEKRef { return crypto.NewKEKRef("test", "test:golden") }
func (f frozen) URI() string        { return "test:golden" }

func (f frozen) GenerateDataKey(context.Context, crypto.KeyContext) (plain, wrapped []byte, err error) {
	return bytes.Clone(f.DataKey), []byte("wrapped"), nil
}

func (f frozen) UnwrapDataKey(context.Context, []byte, crypto.KeyContext) ([]byte, error) {
	return bytes.Clone(f.DataKey), nil
}

// TestGoldenEnvelopes: what the proxy ever wrote opens here.
func TestGoldenEnvelopes(t *testing.T) {
	raw, err := os.ReadFile("../testdata/envelope/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(raw, &all); err != nil || len(all) == 0 {
		t.Fatal(err, len(all))
	}
	for _, g := range all {
		t.Run(g.Name, func(t *testing.T) {
			c, err := newCodec(context.Background(), Options{Namespace: g.Namespace, Realm: g.Realm, Keys: []Key{{Name: g.Key, Active: "test:golden"}}, Log: quiet},
				func(context.Context, string) (crypto.Provider, error) { return frozen{g}, nil })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if g.Name == "text" {
				if got, err := c.OpenText(context.Background(), string(g.Carrier)); err != nil || got != string(g.Plain) {
					t.Errorf("%q, %v", got, err)
				}
				return
			}
			carrier, want := new(commonpb.Payload), new(commonpb.Payload)
			if err := proto.Unmarshal(g.Carrier, carrier); err != nil {
				t.Fatal(err)
			}
			if proto.Unmarshal(g.Plain, want) != nil { // one vector holds no Payload, which only bytes can carry
				if _, err := c.Decode([]*commonpb.Payload{carrier}); err == nil {
					t.Error("decoded what is no Payload")
				}
				return
			}
			got, err := c.Decode([]*commonpb.Payload{carrier})
			if err != nil || !proto.Equal(got[0], want) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestThereAndBack(t *testing.T) {
	c := newLocal(t, nil)
	in := []*commonpb.Payload{
		{Metadata: map[string][]byte{"encoding": []byte("json/plain"), "x": nil}, Data: []byte(`"Ada"`)},
		{Metadata: map[string][]byte{"encoding": []byte("binary/null")}}, {}, {Data: bytes.Repeat([]byte("long"), 10_000)},
	}
	once, err := c.Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := c.Encode(once)
	if err != nil {
		t.Fatal(err)
	}
	for i := range in {
		if e := string(once[i].Metadata["encoding"]); e != "binary/sealed.v1" || bytes.Contains(once[i].Data, []byte("Ada")) {
			t.Errorf("payload %d was written as %q", i, e)
		}
		if !bytes.Contains(once[i].Data, []byte("default")) {
			t.Errorf("payload %d is not sealed with the default key", i)
		}
	}
	// Each step takes off one layer.
	for _, step := range []struct{ from, to []*commonpb.Payload }{{twice, once}, {once, in}, {in, in}} {
		got, err := c.Decode(step.from)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if !proto.Equal(got[i], step.to[i]) {
				t.Errorf("payload %d: %v", i, got[i])
			}
		}
	}
	dc := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c)
	p, err := dc.ToPayload("Ada")
	var back string
	if err != nil || dc.FromPayload(p, &back) != nil || back != "Ada" {
		t.Errorf("by way of a data converter: %q, %v", back, err)
	}
	fc := temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{DataConverter: dc, EncodeCommonAttributes: true})
	failure := fc.ErrorToFailure(temporal.NewApplicationError("no bed for Ada", "Full", errors.New("cause")))
	if text := failure.String(); strings.Contains(text, "Ada") {
		t.Errorf("a failure shows its message: %s", text)
	}
	if err := fc.FailureToError(failure); err == nil || !strings.Contains(err.Error(), "no bed for Ada") {
		t.Errorf("a failure came back as %v", err)
	}
}

func TestWhatDoesNotOpen(t *testing.T) {
	c := newLocal(t, nil)
	sealed, err := c.Encode([]*commonpb.Payload{{Data: []byte("CANARY")}})
	if err != nil {
		t.Fatal(err)
	}
	changed := proto.Clone(sealed[0]).(*commonpb.Payload)
	changed.Data[len(changed.Data)-1] ^= 1
	others := newLocal(t, nil)
	elsewhere := newLocal(t, func(o *Options) { o.Namespace = "billing" })
	for name, try := range map[string]func() ([]*commonpb.Payload, error){
		"changed":           func() ([]*commonpb.Payload, error) { return c.Decode([]*commonpb.Payload{changed}) },
		"another key file":  func() ([]*commonpb.Payload, error) { return others.Decode(sealed) },
		"another namespace": func() ([]*commonpb.Payload, error) { return elsewhere.Decode(sealed) },
	} {
		if got, err := try(); err == nil || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	c.Close()
	if _, err := c.Encode(sealed); err == nil {
		t.Error("seals after Close")
	}
	for name, o := range map[string]Options{
		"no namespace": {Keys: []Key{{Name: "k", Active: "local:x"}}}, "no keys": {Namespace: "ns"},
		"no such file": {Namespace: "ns", Keys: []Key{{Name: "k", Active: "local:" + filepath.Join(t.TempDir(), "gone")}}},
		"no such key":  {Namespace: "ns", Keys: []Key{{Name: "k", Active: "gcpkms://x"}}},
	} {
		if c, err := New(context.Background(), o); err == nil {
			c.Close()
			t.Errorf("%s is taken", name)
		}
	}
}

// TestDependencies: a worker that imports this package gets none of what only the proxy needs.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, heavy := range []string{"open-policy-agent", "grpc-proxy", "opentelemetry", "prometheus", "cobra", "temporal-seal/internal/rewrite", "temporal-seal/internal/server", "temporal-seal/internal/policy"} {
		if strings.Contains(string(out), heavy) {
			t.Errorf("it depends on %s", heavy)
		}
	}
}
