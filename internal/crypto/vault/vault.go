// Package vault makes the transit engine of HashiCorp Vault, or of OpenBao, a key provider. It speaks to three endpoints
// of the engine and to one about its own token, and holds no token: that lies in a file that another program keeps fresh, such as the Vault Agent.
//
// A key is named by vault://<host>[:port]/<mount>/<key>?token_file=<path>, with these parameters, all optional:
//
//	token_file  where the token is; it is read for each call. Without it no token is sent, for an agent that adds its own.
//	ca_file     the authority that signed the server's certificate; without it the system's count
//	namespace   of Vault Enterprise or OpenBao
//	name        stands for the host in what envelopes name the key by, so that the host may change
//	tls=off     plain http, to this host only
//
// Data keys are drawn here and encrypted there, with namespace and key name as associated data. No plaintext of a data
// key and no token ever reaches an error.
//
//	vault.go  the provider, the checks of a key when it is opened, URIs
//	http.go   calls to the server and the kinds of its errors
package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// Scheme starts the URIs of this provider.
const Scheme = "vault"

// label starts the associated data of wrapped data keys.
const label = "temporal-seal/v1/vault\x00"

const (
	opOpen = "open vault key" // in errors
)

// Provider is one transit key. It is safe for concurrent use.
type Provider struct {
	uri    string
	ref    crypto.KEKRef
	loc    location
	client *http.Client
}

// Open looks at the key, if the token may, and checks that the server binds associated data: old ones ignore what they do
// not know.
func Open(ctx context.Context, uri string) (crypto.Provider, error) {
	loc, err := parseURI(uri)
	if err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%w", err)
	}
	p := &Provider{uri: uri, loc: loc, ref: crypto.NewKEKRef(Scheme, loc.name+":"+loc.mount+"/"+loc.key)}
	if p.client, err = loc.httpClient(); err != nil {
		return nil, crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: %w", uri, err)
	}
	// Reading a key's properties needs a permission of its own.
	if err := p.checkProperties(ctx); err != nil && crypto.KindOf(err) != crypto.KindDenied {
		return nil, err
	}
	if err := p.checkBinding(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Ref is derived from the server's name in the configuration, mount and key.
func (p *Provider) Ref() crypto.KEKRef { return p.ref }

// URI is the one that the key was opened by.
func (p *Provider) URI() string { return p.uri }

// GenerateDataKey draws a data key and has it encrypted.
func (p *Provider) GenerateDataKey(ctx context.Context, kc crypto.KeyContext) (plain, wrapped []byte, err error) {
	return crypto.DrawDataKey(ctx, p, kc)
}

// WrapDataKey has a data key encrypted.
func (p *Provider) WrapDataKey(ctx context.Context, plain []byte, kc crypto.KeyContext) ([]byte, error) {
	wrapped, err := p.encrypt(ctx, plain, kc.AssociatedData(label))
	if err != nil {
		return nil, p.failed(ctx, "vault.encrypt", kc, err)
	}
	return wrapped, nil
}

// UnwrapDataKey has a data key decrypted.
func (p *Provider) UnwrapDataKey(ctx context.Context, wrapped []byte, kc crypto.KeyContext) ([]byte, error) {
	plain, err := p.decrypt(ctx, wrapped, kc.AssociatedData(label))
	if err != nil {
		return nil, p.failed(ctx, "vault.decrypt", kc, err)
	}
	return plain, nil
}

// encrypt and decrypt are the endpoints of these names. In JSON, bytes are base64, as Vault has them.
func (p *Provider) encrypt(ctx context.Context, plain, aad []byte) ([]byte, error) {
	var out struct {
		Ciphertext string `json:"ciphertext"`
	}
	err := p.call(ctx, http.MethodPost, "encrypt", map[string]any{"plaintext": plain, "associated_data": aad}, &out)
	if err == nil && out.Ciphertext == "" {
		err = &answer{text: "the answer contains no ciphertext; check that the address is a Vault server"}
	}
	return []byte(out.Ciphertext), err
}

func (p *Provider) decrypt(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	var out struct {
		Plaintext []byte `json:"plaintext"`
	}
	err := p.call(ctx, http.MethodPost, "decrypt",
		map[string]any{"ciphertext": string(wrapped), "associated_data": aad}, &out)
	if err == nil && len(out.Plaintext) != crypto.DataKeySize {
		err = &answer{status: http.StatusBadRequest, text: "the plaintext is not a data key"}
	}
	return out.Plaintext, err
}

// checkBinding has something encrypted and tries to open it under other associated data. A token that may only decrypt is
// for a key that opens only.
func (p *Provider) checkBinding(ctx context.Context) error {
	wrapped, err := p.encrypt(ctx, make([]byte, crypto.DataKeySize), []byte("one"))
	if err != nil {
		if err := p.failed(ctx, opOpen, crypto.KeyContext{}, err); crypto.KindOf(err) != crypto.KindDenied {
			return err
		}
		return nil
	}
	if _, err := p.decrypt(ctx, wrapped, []byte("another")); err == nil {
		return crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: the server ignores associated_data, so data keys "+
			"would not be bound to a namespace; use Vault 1.10 or OpenBao, or later", p.uri)
	}
	return nil
}

// properties are what of a key matters here.
type properties struct {
	Type        string `json:"type"`
	Derived     bool   `json:"derived"`
	SoftDeleted bool   `json:"soft_deleted"`
}

// checkProperties reports what is wrong with a key that can't encrypt data keys with associated data.
func (p *Provider) checkProperties(ctx context.Context) error {
	var k properties
	if err := p.call(ctx, http.MethodGet, "keys", nil, &k); err != nil {
		err = p.failed(ctx, "vault.read_key", crypto.KeyContext{}, err)
		if crypto.KindOf(err) == crypto.KindNotConfigured {
			err = crypto.Internalf(crypto.KindNotConfigured, "vault.read_key",
				"%s: the key does not exist; create it with: vault write -f %s/keys/%s", p.uri, p.loc.mount, p.loc.key)
		}
		return err
	}
	switch k.Type {
	case "aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305":
	default:
		return crypto.Internalf(crypto.KindNotConfigured, opOpen,
			"%s: a %s key does not encrypt with associated data; make one of type aes256-gcm96", p.uri, k.Type)
	}
	switch {
	case k.Derived:
		return crypto.Internalf(crypto.KindNotConfigured, opOpen, "%s: the key is a derived one; make one without "+
			"derivation: what it encrypts is bound by associated data", p.uri)
	case k.SoftDeleted:
		return crypto.Internalf(crypto.KindRevoked, opOpen,
			"the key is deleted; restore it, or take it out of the configuration")
	}
	return nil
}

// location is a parsed URI.
type location struct {
	base                 string // scheme and host
	mount, key           string
	tokenFile, authority string
	namespace, name      string
}

// Check returns what is wrong with a URI, without asking the service.
func Check(uri string) error {
	_, err := parseURI(uri)
	return err
}

func parseURI(uri string) (loc location, err error) {
	wrong := func(format string, args ...any) (location, error) {
		return location{}, fmt.Errorf("%s: "+format, append([]any{uri}, args...)...)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != Scheme || u.Host == "" || u.User != nil || u.Fragment != "" {
		// The URI may hold a password: it is not quoted.
		return loc, errors.New("this is not a Vault key; write vault://<host>[:port]/<mount>/<key>?token_file=<path>, with no user and password")
	}
	path := strings.Trim(u.Path, "/")
	i := strings.LastIndexByte(path, '/')
	if i < 1 || i == len(path)-1 || strings.Contains(path, "..") {
		return wrong("names no key; write vault://<host>[:port]/<mount>/<key>")
	}
	loc = location{base: "https://" + u.Host, mount: path[:i], key: path[i+1:], name: u.Host}
	texts := map[string]*string{"token_file": &loc.tokenFile, "ca_file": &loc.authority, "namespace": &loc.namespace,
		"name": &loc.name}
	for name, values := range u.Query() {
		text := texts[name]
		switch {
		case len(values) != 1 || values[0] == "":
			return wrong("parameter %q requires one value", name)
		case text != nil:
			*text = values[0]
		case name != "tls":
			return wrong("unknown parameter %q; the parameters are token_file, ca_file, namespace, name and tls", name)
		case values[0] != "off":
			return wrong("tls can only be off")
		case !loopback.Host(u.Hostname()):
			return wrong("plain http would show data keys and the token to the network; tls=off is for this host only")
		default:
			loc.base = "http://" + u.Host
		}
	}
	return loc, nil
}
