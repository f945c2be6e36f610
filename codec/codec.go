// Package codec lets a Temporal worker or client of the Go SDK read and write the proxy's envelopes by itself. It is the
// way off the proxy, and the way around it: what the proxy sealed opens here, and what is sealed here opens in the proxy.
//
//	c, err := codec.New(ctx, codec.Options{
//		Namespace: "payments",
//		Keys:      []codec.Key{{Name: "default", Active: "awskms://alias/temporal?region=eu-central-1"}},
//	})
//	// ...
//	defer c.Close()
//	opts := client.Options{
//		Namespace:     "payments",
//		DataConverter: workflow.DataConverterWithoutDeadlockDetection(converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c)),
//		FailureConverter: temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
//			DataConverter: ..., EncodeCommonAttributes: true}),
//	}
//
// A data key that is not in memory yet takes a call to the key service, which workflow code may wait for longer than the
// SDK's deadlock detector likes; hence DataConverterWithoutDeadlockDetection. Without EncodeCommonAttributes the messages
// of failures go to the server in clear.
//
// The package never looks at a policy: all payloads are sealed, with one key.
package codec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/crypto/plugin"
	"github.com/temporal-seal/temporal-seal/internal/crypto/vault"
)

// Options say the same as the proxy's configuration, and have to say it in the same words: an envelope names its key and
// its namespace.
type Options struct {
	// Namespace is the one that the client works in, as the server knows it.
	Namespace string
	// SealedAs is what the proxy's `namespaces` has as `sealed_as` for Namespace. Empty: its own name.
	SealedAs string
	// Realm is the proxy's `realm`.
	Realm string
	// Keys are the proxy's `keys`.
	Keys []Key
	// Key names the key that is sealed with. Empty: "default" if it serves the namespace, else the first that does.
	Key string
	// Grants are the proxy's `grants`.
	Grants []Grant
	// RevokedDataKeys are the proxy's `revoked_data_keys`.
	RevokedDataKeys [][16]byte
	// Log reports of keys that stop answering. Nil: slog.Default().
	Log *slog.Logger
}

// Key is an entry of the proxy's `keys`.
type Key struct {
	// Name is what envelopes call it. It may hold one *, as in the proxy.
	Name string
	// Namespaces that may use it, with * for any run of characters. Empty: all.
	Namespaces []string
	// Active is the URI of the key that new data keys are made with: awskms://..., vault://..., plugin://...
	// or local:<file>.
	Active string
	// OpenOnly are URIs of earlier ones.
	OpenOnly []string
}

// Grant lets what was sealed in the namespace From be opened in To.
type Grant struct{ From, To string }

// Codec is a converter.PayloadCodec. It is safe for concurrent use.
type Codec struct {
	keys      *keyring.Keyring
	namespace string
	key       string
}

var _ converter.PayloadCodec = (*Codec)(nil)

// New opens the keys and has a data key made, so that a key that does not answer is found here and not by the first task.
func New(ctx context.Context, o Options) (*Codec, error) { return newCodec(ctx, o, open) }

func newCodec(ctx context.Context, o Options, open func(context.Context, string) (crypto.Provider, error)) (*Codec, error) {
	if o.Namespace == "" {
		return nil, errors.New("codec: Options.Namespace is missing: envelopes name the namespace that they were sealed in")
	}
	ring := keyring.Options{Open: open, Realm: o.Realm, Log: o.Log}
	if o.SealedAs != "" {
		ring.SealedAs = map[string]string{o.Namespace: o.SealedAs}
	}
	for _, id := range o.RevokedDataKeys {
		ring.RevokedDataKeys = append(ring.RevokedDataKeys, id)
	}
	for _, k := range o.Keys {
		ring.Keys = append(ring.Keys, keyring.KeyConfig{Name: k.Name, Namespaces: k.Namespaces, Active: k.Active, OpenOnly: k.OpenOnly})
	}
	for _, g := range o.Grants {
		ring.Grants = append(ring.Grants, keyring.Grant{From: g.From, To: g.To})
	}
	keys, err := keyring.New(ctx, ring)
	if err != nil {
		return nil, fmt.Errorf("codec: %w", err)
	}
	if err := keys.Current().AllAnswer(); err != nil {
		keys.Close()
		return nil, fmt.Errorf("codec: %w", err)
	}
	c := &Codec{keys: keys, namespace: o.Namespace, key: o.Key}
	if c.key == "" {
		c.key, _ = keys.DefaultKey(o.Namespace)
	}
	keys.Confirm(o.Namespace)
	if _, _, err := keys.Sealer(ctx, c.namespace, c.key); err != nil {
		keys.Close()
		return nil, fmt.Errorf("codec: %w", err)
	}
	return c, nil
}

func open(ctx context.Context, uri string) (crypto.Provider, error) {
	scheme, _, _ := strings.Cut(uri, ":")
	switch scheme {
	case localkey.Scheme:
		return localkey.Open(ctx, uri)
	case awskms.Scheme:
		return awskms.Open(ctx, uri)
	case plugin.Scheme:
		return plugin.Open(ctx, uri)
	case vault.Scheme:
		return vault.Open(ctx, uri)
	}
	return nil, errors.New("a key's URI is awskms://<key id, ARN or alias>?region=<region>, vault://<host>/<mount>/<key>?token_file=<path>, " +
		"plugin://<name>/<key>?address=<address>, or local:<file>")
}

// Encode seals every payload, also one that is sealed already: Decode takes off one layer. It is called by the SDK.
func (c *Codec) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	sealer, _, err := c.keys.Sealer(context.Background(), c.namespace, c.key)
	if err != nil {
		return payloads, fmt.Errorf("codec: %w", err)
	}
	var nonces envelope.Nonces
	nonces.Expect(len(payloads))
	defer nonces.Reset()
	return each(payloads, func(in []byte) ([]byte, error) { return sealer.AppendPayload(nil, in, false, &nonces) })
}

// Decode opens what is sealed for the namespace, or granted to it, and leaves everything else as it is. It is called by
// the SDK.
func (c *Codec) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	var run keyring.Run
	defer run.Count()
	return each(payloads, func(in []byte) ([]byte, error) {
		sealed, marked, err := envelope.ParsePayload(in)
		if err != nil || !marked {
			return nil, err
		}
		out, _, err := c.keys.Open(context.Background(), []byte{}, &sealed, c.namespace, &run)
		return out, err
	})
}

// each replaces payloads by what change makes of them; nil leaves one as it is. An error leaves all of them.
func each(payloads []*commonpb.Payload, change func(in []byte) ([]byte, error)) ([]*commonpb.Payload, error) {
	result := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		in, err := proto.Marshal(p)
		if err != nil {
			return payloads, fmt.Errorf("codec: payload %d: %w", i, err)
		}
		out, err := change(in)
		if err != nil {
			return payloads, fmt.Errorf("codec: payload %d: %w", i, err)
		}
		if result[i] = p; out == nil {
			continue
		}
		result[i] = new(commonpb.Payload)
		if err := proto.Unmarshal(out, result[i]); err != nil {
			return payloads, fmt.Errorf("codec: payload %d: what was sealed is not a Payload", i)
		}
	}
	return result, nil
}

// OpenText opens a text that the proxy sealed, as the message of a failed query is one, and gives any other as it is. The
// SDK has no place for it: texts are not payloads, so it never hands them to a codec.
func (c *Codec) OpenText(ctx context.Context, text string) (string, error) {
	sealed, marked, err := envelope.ParseText([]byte(text))
	if err != nil {
		return "", fmt.Errorf("codec: %w", err)
	}
	if !marked {
		return text, nil
	}
	out, _, err := c.keys.Open(ctx, nil, &sealed, c.namespace, new(keyring.Run))
	if err != nil {
		return "", fmt.Errorf("codec: %w", err)
	}
	return string(out), nil
}

// Close stops what runs in the background and forgets the data keys. Nothing opens after it.
func (c *Codec) Close() { c.keys.Close() }
