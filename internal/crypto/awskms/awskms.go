// Package awskms makes AWS KMS a key provider.
//
// A key is named by awskms://<key>?region=<region>, where <key> is a key id, a key ARN, alias/<name> or an alias ARN. The
// parameters, all optional: region, endpoint, profile, role_arn, external_id and fips=on.
//
//	awskms.go  the provider, the checks of a key when it is opened, URIs
//	errors.go  the kinds of KMS's errors
package awskms

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awsclient"
)

// Scheme starts the URIs of this provider.
const Scheme = "awskms"

const opOpen = "open KMS key" // in errors

// Provider is one KMS key. It is safe for concurrent use.
type Provider struct {
	uri    string
	ref    crypto.KEKRef
	keyARN string
	client *kms.Client
}

// Open resolves the key, aliases included, with DescribeKey. A key that is named by its full ARN needs no permission
// for that. A key that is disabled or about to be deleted is an error of kind KindRevoked.
func Open(ctx context.Context, uri string) (crypto.Provider, error) {
	p, err := OpenKey(ctx, uri)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// OpenKey is Open with the concrete type, which can also Decrypt.
func OpenKey(ctx context.Context, uri string) (*Provider, error) {
	loc, err := parseURI(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	client, err := newClient(ctx, loc)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindUnavailable, opOpen, "%s: %w", uri, err)
	}
	p := &Provider{uri: uri, keyARN: loc.key, client: client}
	meta, err := p.describe(ctx)
	if err == nil {
		p.keyARN = aws.ToString(meta.Arn)
		err = p.usable(meta)
	} else if _, whole := stableID(loc.key); whole && crypto.KindOf(err) == crypto.KindDenied {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	id, ok := stableID(p.keyARN)
	if !ok {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: %q is not the ARN of a key", uri, p.keyARN)
	}
	p.ref = crypto.NewKEKRef(Scheme, id)
	return p, nil
}

// OpenForeign opens a key with which another tool encrypted data keys.
func OpenForeign(ctx context.Context, uri string) (crypto.Decrypter, error) {
	p, err := OpenKey(ctx, uri)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// newClient makes a client with the SDK's default chain of credentials. It sends nothing yet.
func newClient(ctx context.Context, loc location) (*kms.Client, error) {
	cfg, err := awsclient.Load(ctx, loc.place)
	if err != nil {
		return nil, err
	}
	return kms.NewFromConfig(cfg, func(o *kms.Options) {
		if loc.place.Endpoint != "" {
			o.BaseEndpoint = aws.String(loc.place.Endpoint)
		}
	}), nil
}

// Ref is derived from account and key id, so that replicas of a multi-Region key share it.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// ARN is that of the key itself, also where the URI names an alias.
func (p *Provider) ARN() string { return p.keyARN }

// Reference returns the reference of a key that is named by its whole ARN, which needs no answer of KMS. ok is false for every
// other name.
func Reference(uri string) (ref crypto.KEKRef, arn string, ok bool) {
	loc, err := parseURI(uri)
	if err != nil {
		return ref, "", false
	}
	id, ok := stableID(loc.key)
	return crypto.NewKEKRef(Scheme, id), loc.key, ok
}

// URI is the one that the key was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey makes a data key with the KMS operation of that name.
func (p *Provider) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	out, err := p.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId:             aws.String(p.keyARN),
		KeySpec:           types.DataKeySpecAes256,
		EncryptionContext: kc.EncryptionContext(),
	})
	if err != nil {
		return nil, nil, p.failed(ctx, "kms.generate_data_key", kc, err)
	}
	return out.Plaintext, out.CiphertextBlob, nil
}

// WrapDataKey is KMS's Encrypt, which needs a permission of its own.
func (p *Provider) WrapDataKey(ctx context.Context, plain []byte, kc crypto.KeyContext) ([]byte, error) {
	out, err := p.client.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(p.keyARN), Plaintext: plain, EncryptionContext: kc.EncryptionContext()})
	if err != nil {
		return nil, p.failed(ctx, "kms.encrypt", kc, err)
	}
	return out.CiphertextBlob, nil
}

// UnwrapDataKey is KMS's Decrypt, pinned to this key: a blob of any other key is refused by KMS.
func (p *Provider) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	return p.decrypt(ctx, wrapped, kc, kc.EncryptionContext())
}

// Decrypt is KMS's Decrypt with this key, under whatever context another tool bound its data keys to; nil for none.
func (p *Provider) Decrypt(ctx context.Context, wrapped []byte, encryptionContext map[string]string) ([]byte, error) {
	return p.decrypt(ctx, wrapped, crypto.KeyContext{}, encryptionContext)
}

func (p *Provider) decrypt(ctx context.Context, wrapped []byte, kc crypto.KeyContext, encryptionContext map[string]string) ([]byte, error) {
	out, err := p.client.Decrypt(ctx, &kms.DecryptInput{
		KeyId:             aws.String(p.keyARN),
		CiphertextBlob:    wrapped,
		EncryptionContext: encryptionContext,
	})
	if err != nil {
		return nil, p.failed(ctx, "kms.decrypt", kc, err)
	}
	return out.Plaintext, nil
}

func (p *Provider) describe(ctx context.Context) (*types.KeyMetadata, error) {
	out, err := p.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(p.keyARN)})
	if err != nil {
		return nil, crypto.Internalf(kindOf(err), "kms.describe_key", "%s: %w%s", p.uri, brief(err), advice(err))
	}
	if out.KeyMetadata == nil {
		return nil, crypto.Internalf(crypto.KindUnavailable, "kms.describe_key",
			"%s: the answer describes no key; check that the endpoint is a KMS", p.uri)
	}
	return out.KeyMetadata, nil
}

// usable reports what is wrong with a key that can't make and unwrap data keys. The API documents usage and spec as
// members that an answer may lack; then the first data key shows it.
func (p *Provider) usable(meta *types.KeyMetadata) error {
	if (meta.KeyUsage != "" && meta.KeyUsage != types.KeyUsageTypeEncryptDecrypt) ||
		(meta.KeySpec != "" && meta.KeySpec != types.KeySpecSymmetricDefault) {
		return crypto.Internalf(crypto.KindNotConfigured, opOpen,
			"%s: a %s key for %s can't wrap data keys; name a symmetric key for encryption", p.uri, meta.KeySpec, meta.KeyUsage)
	}
	if withdrawn(meta.KeyState) {
		return crypto.Internalf(crypto.KindRevoked, opOpen,
			"%s: the key's state is %s; enable it, or take it out of the configuration", p.uri, meta.KeyState)
	}
	return nil
}

// withdrawn reports whether a state was chosen, and does not pass by itself.
func withdrawn(state types.KeyState) bool {
	switch state {
	case types.KeyStateDisabled, types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion, types.KeyStatePendingImport:
		return true
	}
	return false
}

// location is a parsed URI.
type location struct {
	key   string
	place awsclient.Place
}

// Check returns what is wrong with a URI, without asking the service.
func Check(uri string) error {
	_, err := parseURI(uri)
	return err
}

// parseURI reads a URI. Without a region in it the region is that of a key named by its ARN, or else the one of the
// SDK's configuration.
func parseURI(uri string) (location, error) {
	rest, ok := strings.CutPrefix(uri, Scheme+"://")
	key, query, _ := strings.Cut(rest, "?")
	key = strings.TrimPrefix(key, "/") // other tools write awskms:///arn:aws:kms:...
	if !ok || key == "" {
		return location{}, fmt.Errorf("%q is not a KMS key; write awskms://<key id, ARN or alias/name>?region=...", uri)
	}
	place, err := awsclient.ParsePlace(key, query)
	if err != nil {
		return location{}, err
	}
	if arn := strings.Split(key, ":"); len(arn) == 6 && arn[0] == "arn" && place.Region == "" {
		place.Region = arn[3]
	}
	return location{key, place}, nil
}

// stableID returns <account>:<id> of arn:aws:kms:<region>:<account>:key/<id>. Replicas of a multi-Region key share it.
func stableID(arn string) (id string, ok bool) {
	parts := strings.Split(arn, ":")
	if len(parts) != 6 || parts[0] != "arn" || parts[2] != "kms" || parts[4] == "" {
		return "", false
	}
	id, ok = strings.CutPrefix(parts[5], "key/")
	return parts[4] + ":" + id, ok && id != ""
}
