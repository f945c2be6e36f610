// Package plugin makes a gRPC server of the operator's a key provider, for key services that the product does not know.
// It holds no key and no token: the token lies in a file that another program keeps fresh.
//
// A key is named by plugin://<name>/<key>?address=<address>. Name and key are what envelopes name the key by, so the
// address may change. Parameters:
//
//	address     unix:<path of a socket>, or <host>:<port>, which is spoken to over TLS; required
//	service     EncryptionService, that of Temporal's own proxy (the default), or KeyService, which has a context and keys
//	token_file  where the bearer token is; it is read for each call. Without it no token is sent.
//	ca_file     the authority that signed the server's certificate; without it the system's count
//	tls=off     plain text, to this host only
//
// Data keys are drawn here and wrapped there. The text of a server's error never reaches an error of this package: it
// could quote a key.
//
//	plugin.go   the provider, the checks of a server when a key is opened
//	uri.go      URIs
//	client.go   connections, calls, and the kinds of errors
//	pluginpb/   the definitions of both services, and code that is generated from them
package plugin

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/plugin/pluginpb"
)

// Scheme starts the URIs of this provider.
const Scheme = "plugin"

const (
	opOpen   = "open plug-in key" // in errors
	opWrap   = "plugin.wrap"
	opUnwrap = "plugin.unwrap"
)

// Provider is one key of a plug-in. It is safe for concurrent use.
type Provider struct {
	uri  string
	ref  crypto.KEKRef
	loc  location
	conn *grpc.ClientConn
}

// Open checks that the server wraps data keys, unless it may only unwrap, and that it notices a change of what it wrapped.
func Open(ctx context.Context, uri string) (crypto.Provider, error) {
	loc, err := parseURI(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	p := &Provider{uri: uri, loc: loc, ref: crypto.NewKEKRef(Scheme, loc.name+"/"+loc.key)}
	if p.conn, err = loc.connection(); err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: %w", uri, err)
	}
	if err := p.checkAuthenticates(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Ref is derived from the plug-in's name in the configuration and the key.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// URI is the one that the key was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey draws a data key and has it wrapped.
func (p *Provider) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	return crypto.DrawDataKey(ctx, p, kc)
}

// WrapDataKey has a data key wrapped. EncryptionService learns the namespace and binds nothing to it.
func (p *Provider) WrapDataKey(ctx context.Context, plain []byte, kc crypto.KeyContext) (wrapped []byte, err error) {
	if ctx, err = p.authorized(ctx, opWrap, kc); err != nil {
		return nil, err
	}
	if p.loc.withContext {
		var out *pluginpb.WrapResponse
		out, err = pluginpb.NewKeyServiceClient(p.conn).Wrap(ctx,
			&pluginpb.WrapRequest{Key: p.loc.key, Context: contextOf(kc), Plaintext: plain})
		wrapped = out.GetWrapped()
	} else {
		var out *pluginpb.EncryptResponse
		out, err = pluginpb.NewEncryptionServiceClient(p.conn).Encrypt(ctx,
			&pluginpb.EncryptRequest{Namespace: kc.Namespace, Plaintext: plain})
		wrapped = out.GetCiphertext()
	}
	if err != nil {
		return nil, p.failed(opWrap, kc, err)
	}
	if len(wrapped) == 0 || bytes.Contains(wrapped, plain) {
		return nil, kc.Internalf(crypto.KindNotConfigured, opWrap,
			"%s: the plug-in answered with no ciphertext, or with one that shows the data key; nothing is sealed with it", p.uri)
	}
	return wrapped, nil
}

// UnwrapDataKey has a data key unwrapped. What EncryptionService unwraps may be of any context: the id of the data key, which the
// keyring derives and compares, shows which.
func (p *Provider) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) (plain []byte, err error) {
	if ctx, err = p.authorized(ctx, opUnwrap, kc); err != nil {
		return nil, err
	}
	if plain, err = p.unwrap(ctx, wrapped, kc); err != nil {
		return nil, p.failed(opUnwrap, kc, err)
	}
	if len(plain) != crypto.DataKeySize {
		clear(plain)
		return nil, kc.Internalf(crypto.KindRejected, opUnwrap, "%s: the bytes that the plug-in unwrapped are not a data key", p.uri)
	}
	return plain, nil
}

// OpenForeign opens a key with which Temporal's own proxy encrypted data keys, by EncryptionService. It sends nothing.
func OpenForeign(_ context.Context, uri string) (crypto.Decrypter, error) {
	loc, err := parseURI(uri)
	if err == nil && loc.withContext {
		err = fmt.Errorf("%s: Temporal's own proxy has no KeyService; leave service out", uri)
	}
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	p := &Provider{uri: uri, loc: loc}
	if p.conn, err = loc.connection(); err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: %w", uri, err)
	}
	return p, nil
}

// Decrypt decrypts a data key of Temporal's own proxy, which is bound to nothing.
func (p *Provider) Decrypt(ctx context.Context, wrapped []byte, _ map[string]string) ([]byte, error) {
	return p.UnwrapDataKey(ctx, wrapped, crypto.KeyContext{})
}

// unwrap returns what the plug-in answers, or the error of the call.
func (p *Provider) unwrap(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	if p.loc.withContext {
		out, err := pluginpb.NewKeyServiceClient(p.conn).Unwrap(ctx,
			&pluginpb.UnwrapRequest{Key: p.loc.key, Context: contextOf(kc), Wrapped: wrapped})
		return out.GetPlaintext(), err
	}
	out, err := pluginpb.NewEncryptionServiceClient(p.conn).Decrypt(ctx, &pluginpb.DecryptRequest{Ciphertext: wrapped})
	return out.GetPlaintext(), err
}

func contextOf(kc crypto.KeyContext) *pluginpb.KeyContext {
	return &pluginpb.KeyContext{Namespace: kc.Namespace, KeyName: kc.Key}
}

// checkAuthenticates has a data key wrapped, and tries to unwrap it changed, and under another context where the service
// has one. A server that lets either pass would open what somebody else put together. One that refuses to wrap is for a key
// that opens only, and is not checked.
func (p *Provider) checkAuthenticates(ctx context.Context) error {
	probe := crypto.KeyContext{Namespace: "temporal-seal-probe", Key: "probe"}
	_, wrapped, err := p.GenerateDataKey(ctx, probe)
	if err != nil {
		if crypto.KindOf(err) == crypto.KindDenied {
			return nil
		}
		return err
	}
	for _, changed := range changedForms(wrapped) {
		if err := p.refuses(ctx, changed, probe, "unwraps a wrapped key that was changed; it has to authenticate what it decrypts, "+
			"as AES-GCM does"); err != nil {
			return err
		}
	}
	if !p.loc.withContext {
		return nil
	}
	return p.refuses(ctx, wrapped, crypto.KeyContext{Namespace: "temporal-seal-other", Key: "probe"},
		"ignores the context of KeyService; it has to authenticate namespace and key name with the data key")
}

// changedForms returns a wrapped key with a bit changed at several places, cut, and lengthened. Text formats end in padding, in
// which a change shows nothing.
func changedForms(wrapped []byte) (forms [][]byte) {
	const places = 6
	for i := range places {
		changed := bytes.Clone(wrapped)
		changed[i*(len(wrapped)-1)/(places-1)] ^= 1
		forms = append(forms, changed)
	}
	return append(forms, wrapped[:len(wrapped)-1], append(bytes.Clone(wrapped), 'A'))
}

// refuses returns an error unless the plug-in refuses to unwrap something. A call that did not reach it shows nothing.
func (p *Provider) refuses(ctx context.Context, wrapped []byte, kc crypto.KeyContext, otherwise string) error {
	ctx, err := p.authorized(ctx, opUnwrap, kc)
	if err != nil {
		return err
	}
	plain, err := p.unwrap(ctx, wrapped, kc)
	clear(plain)
	switch status.Code(err) {
	case codes.OK:
		return crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: the plug-in %s", p.uri, otherwise)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted, codes.Unauthenticated, codes.Unimplemented:
		return p.failed(opUnwrap, kc, err)
	}
	return nil
}
