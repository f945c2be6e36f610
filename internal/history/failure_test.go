package history_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/history"
)

// testKeys returns a key ring with one key from a file.
func testKeys(t *testing.T) *keyring.Keyring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(t.Context(), keyring.Options{Open: localkey.Open, Log: slog.New(slog.DiscardHandler),
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + path}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	return keys
}

// sealed returns the JSON form of a payload that is sealed in the namespace clinic.
func sealed(t *testing.T, keys *keyring.Keyring, p *commonpb.Payload) string {
	t.Helper()
	sealer, _, err := keys.Sealer(t.Context(), "clinic", "default")
	if err != nil {
		t.Fatal(err)
	}
	clear, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sealer.AppendPayload(nil, clear, false, new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	var out commonpb.Payload
	if err := proto.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"metadata": {"encoding": %q}, "data": %q}`, base64.StdEncoding.EncodeToString(out.Metadata["encoding"]),
		base64.StdEncoding.EncodeToString(out.Data))
}

// texts is the payload that holds the texts of a chain of failures.
func texts(document, form string) *commonpb.Payload {
	return &commonpb.Payload{Data: []byte(document),
		Metadata: map[string][]byte{"encoding": []byte("json/plain"), "failure-texts": []byte(form)}}
}

// opened opens a document, and returns it as JSON in one line.
func opened(t *testing.T, text string, o history.Options) (document string, n int, problems []string) {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	v, n, problems = history.Open(t.Context(), v, o)
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), n, problems
}

// TestFailuresAreRestored: the texts of a chain of failures stand where they stood before they were sealed.
func TestFailuresAreRestored(t *testing.T) {
	keys := testKeys(t)
	encoded, err := proto.Marshal(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"by the SDK"`)})
	if err != nil {
		t.Fatal(err)
	}
	outer := sealed(t, keys, texts(`{"message": "sealed.v1:outer", "stack_trace": "at line 1", "causes": [{"message": "middle",
		"stack_trace": "", "encoded_attributes": "`+base64.StdEncoding.EncodeToString(encoded)+`"}]}`, "v1"))
	inner := sealed(t, keys, texts(`{"message": "inner", "stack_trace": ""}`, "v1"))
	for _, names := range [][2]string{{"encodedAttributes", "stackTrace"}, {"encoded_attributes", "stack_trace"}} {
		got, n, problems := opened(t, strings.NewReplacer("ATTRIBUTES", names[0]).Replace(`{"failure": {"message": "Encoded failure",
			"ATTRIBUTES": `+outer+`, "source": "GoSDK", "cause": {"message": "Encoded failure", "cause": {"message": "Encoded failure",
			"ATTRIBUTES": `+inner+`}}}}`), history.Options{Keys: keys})
		want := `{"failure":{"cause":{"cause":{"message":"inner"},"encodedAttributes":{"data":"ImJ5IHRoZSBTREsi","metadata":` +
			`{"encoding":"anNvbi9wbGFpbg=="}},"message":"middle"},"message":"sealed.v1:outer","source":"GoSDK","stackTrace":"at line 1"}}`
		if got != want || n != 2 || problems != nil {
			t.Errorf("%d opened, %q:\n%s\nwant\n%s", n, problems, got, want)
		}
	}
}

// TestFailuresOfNewerReleases: what this release cannot restore is a problem, and stays.
func TestFailuresOfNewerReleases(t *testing.T) {
	keys := testKeys(t)
	attributes := sealed(t, keys, texts(`{}`, "v9"))
	_, _, problems := opened(t, `{"failure": {"encodedAttributes": `+attributes+`}}`, history.Options{Keys: keys})
	if len(problems) != 1 || !strings.HasPrefix(problems[0], "failure.encodedAttributes: ") || !strings.Contains(problems[0], "newer release") {
		t.Errorf("%q", problems)
	}
}

// TestForms: an opened payload has the form in which it stood, or for people that of its value.
func TestForms(t *testing.T) {
	keys := testKeys(t)
	document := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain"), "mine": []byte("x")}, Data: []byte(`{"b":1,"a":1.0}`)}
	asBase64 := sealed(t, keys, document)
	asTexts := strings.Replace(asBase64, base64.StdEncoding.EncodeToString([]byte("binary/sealed.v1")), "binary/sealed.v1", 1)
	for _, c := range []struct {
		name, in, want string
		readable       bool
	}{
		{"as protojson has it", asBase64, `{"data":"eyJiIjoxLCJhIjoxLjB9","metadata":{"encoding":"anNvbi9wbGFpbg==","mine":"eA=="}}`, false},
		{"as the Web UI has it", asTexts, `{"data":"eyJiIjoxLCJhIjoxLjB9","metadata":{"encoding":"json/plain","mine":"x"}}`, false},
		{"a value", asBase64, `{"b":1,"a":1.0}`, true},
		{"a readable one without a value", sealed(t, keys, &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: []byte{1}}),
			`{"data":"AQ==","metadata":{"encoding":"binary/plain"}}`, true},
		{"an empty one", sealed(t, keys, &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/null")}}),
			`{"metadata":{"encoding":"YmluYXJ5L251bGw="}}`, false},
	} {
		got, n, problems := opened(t, c.in, history.Options{Keys: keys, Readable: c.readable})
		if got != c.want || n != 1 || problems != nil {
			t.Errorf("%s: %d opened, %q: %s", c.name, n, problems, got)
		}
	}
}
