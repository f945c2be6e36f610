package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	attempts  = 3
	maxAnswer = 1 << 20
)

var ofAll crypto.Shared[*http.Client]

// httpClient returns the client of all keys, which trusts the authorities of this location.
func (l location) httpClient() (*http.Client, error) {
	var authorities *x509.CertPool
	if l.authority != "" {
		pem, err := os.ReadFile(l.authority)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		authorities = x509.NewCertPool()
		if !authorities.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s contains no certificate in PEM form", l.authority)
		}
	}
	return ofAll.Client(authorities, func() *http.Client {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities}
		return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // the token is for the host that the configuration names
		}}
	}), nil
}

// answer is a refusal, or an answer that is none of Vault's. Its text is the server's own: Vault puts no plaintext there.
type answer struct {
	status int
	text   string
}

func (a *answer) Error() string { return a.text }

// call calls one of the transit engine's endpoints for the key, and again after an error that may pass.
func (p *Provider) call(ctx context.Context, method, endpoint string, in, out any) error {
	// The Keyring gives a call two seconds in all, so another try has to come quickly.
	pause := backoff.Backoff{First: 150 * time.Millisecond, Max: 300 * time.Millisecond}
	for try := 1; ; try++ {
		err := p.ask(ctx, method, p.path(endpoint), in, out)
		var a *answer
		if err == nil || try == attempts || errors.As(err, &a) && !a.passes() || pause.Wait(ctx) != nil {
			return err
		}
	}
}

// path returns the path of an endpoint of the transit engine for the key. The slashes of a mount's path stay.
func (p *Provider) path(endpoint string) string {
	mount := strings.ReplaceAll(url.PathEscape(p.loc.mount), "%2F", "/")
	return "/v1/" + mount + "/" + endpoint + "/" + url.PathEscape(p.loc.key)
}

// passes reports whether the same call may succeed in a moment.
func (a *answer) passes() bool { return a.status == http.StatusTooManyRequests || a.status >= 500 }

func (p *Provider) ask(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.loc.base+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Request", "true")
	if p.loc.namespace != "" {
		req.Header.Set("X-Vault-Namespace", p.loc.namespace)
	}
	if p.loc.tokenFile != "" {
		token, err := os.ReadFile(p.loc.tokenFile)
		if err != nil {
			return fmt.Errorf("token_file: %w", err)
		}
		if token = bytes.TrimSpace(token); len(token) == 0 {
			return fmt.Errorf("token_file: %s is empty", p.loc.tokenFile)
		}
		req.Header.Set("X-Vault-Token", string(token))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	defer clear(raw)
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, raw)
	}
	if json.Unmarshal(raw, &struct {
		Data any `json:"data"`
	}{out}) != nil { // its error could quote the answer
		return &answer{text: "the answer is not Vault's; is the address right?"}
	}
	return nil
}

func refusal(status int, raw []byte) error {
	var said struct {
		Errors []string `json:"errors"`
	}
	_ = json.Unmarshal(raw, &said)
	text := strings.Join(said.Errors, "; ")
	if text == "" {
		text = http.StatusText(status)
	}
	return &answer{status: status, text: fmt.Sprintf("%d: %s", status, strings.ReplaceAll(strings.TrimSpace(text), "\n", " "))}
}

// failed turns a refusal into one of our errors.
func (p *Provider) failed(ctx context.Context, op string, kc crypto.KeyContext, err error) error {
	return kc.Internalf(p.kindOf(ctx, op, err), op, "%s: %w", p.uri, err)
}

// kindOf sorts Vault's answers. What is not known counts as unavailable: no key is dropped and no payload given up for a
// reason that is not understood.
func (p *Provider) kindOf(ctx context.Context, op string, err error) crypto.Kind {
	var a *answer
	if !errors.As(err, &a) {
		return crypto.KindUnavailable
	}
	switch a.status {
	case http.StatusForbidden:
		// An expired token is refused in the same words as a missing permission; only the latter says something about the key.
		if p.ask(ctx, http.MethodGet, "/v1/auth/token/lookup-self", nil, new(struct{})) != nil {
			return crypto.KindUnavailable
		}
		return crypto.KindDenied
	case http.StatusNotFound:
		if op == "vault.read_key" {
			return crypto.KindNotConfigured
		}
	case http.StatusBadRequest:
		// The key is gone, or the ciphertext is not one of its own.
		var k properties
		err := p.ask(ctx, http.MethodGet, p.path("keys"), nil, &k)
		if errors.As(err, &a) && a.status == http.StatusNotFound || err == nil && k.SoftDeleted {
			return crypto.KindRevoked
		}
		if op == "vault.decrypt" {
			return crypto.KindRejected
		}
		return crypto.KindNotConfigured
	}
	return crypto.KindUnavailable
}
