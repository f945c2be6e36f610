package azurekeyvault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// failed turns an error of the client about one of the keys into one of ours.
func (p *Provider) failed(ctx context.Context, op string, kc crypto.KeyContext, key string, err error) error {
	a, answered := answerOf(err)
	if !answered {
		return kc.Internalf(crypto.KindUnavailable, op, "%s: %w", p.uri, &brief{oneLine(err.Error()), err})
	}
	kind := a.kind(op)
	if op == opUnwrap && kind == crypto.KindRevoked {
		kind = p.ofVersion(ctx, key, a.status == http.StatusNotFound)
	}
	return kc.Internalf(kind, op, "%s: key %s: %w", p.uri, key, &brief{a.String(), err})
}

// ofVersion returns what it means for a key that one of its versions, by which something was wrapped, is disabled or missing. Its
// newest version shows that: an old one may be disabled by itself, and a missing one may be made up.
func (p *Provider) ofVersion(ctx context.Context, key string, missing bool) crypto.Kind {
	newest, err := p.client.GetKey(ctx, key, "", nil)
	a, answered := answerOf(err)
	switch gone := answered && a.kind(opUnwrap) == crypto.KindRevoked; {
	case missing && err == nil:
		return crypto.KindRejected
	case missing && gone && a.status == http.StatusNotFound:
		return crypto.KindRevoked
	case missing:
		return crypto.KindUnavailable
	case gone, err == nil && disabled(newest.KeyBundle):
		return crypto.KindRevoked
	case err == nil, answered && a.kind(opUnwrap) == crypto.KindDenied:
		return crypto.KindDenied
	}
	return crypto.KindUnavailable
}

// errDisabled is the cause of an error about a newest version that is disabled.
var errDisabled = errors.New("its newest version is disabled; enable it or make another version")

// newestDisabled reports whether an error says no more than that a newest version is disabled.
func newestDisabled(err error) bool {
	a, _ := answerOf(err)
	return a.Inner.Code == keyDisabled || errors.Is(err, errDisabled)
}

// brief is an error without the client's account of it; the error below stays reachable.
type brief struct {
	text string
	err  error
}

func (b *brief) Error() string { return b.text }
func (b *brief) Unwrap() error { return b.err }

// oneLine shortens the client's text, which has several lines.
func oneLine(text string) string {
	const limit = 400
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > limit {
		text = text[:limit] + "..."
	}
	return text
}

// answer is a refusal of the service.
type answer struct {
	status int
	Code   string `json:"code"`
	Inner  struct {
		Code string `json:"code"`
	} `json:"innererror"`
	Message string `json:"message"`
}

func (a answer) String() string {
	code := a.Code
	if a.Inner.Code != "" {
		code += " (" + a.Inner.Code + ")"
	}
	return oneLine(fmt.Sprintf("%d %s: %s", a.status, code, a.Message))
}

// answerOf returns the service's answer. What another service said that was asked for a token says nothing about the key.
func answerOf(err error) (a answer, ok bool) {
	var token *azidentity.AuthenticationFailedError
	var refused *azcore.ResponseError
	if errors.As(err, &token) || !errors.As(err, &refused) {
		return a, false
	}
	body := struct {
		Error *answer `json:"error"`
	}{&a}
	if refused.RawResponse != nil {
		if raw, err := runtime.Payload(refused.RawResponse); err == nil {
			_ = json.Unmarshal(raw, &body) // an answer of something else has no code
		}
	}
	a.status = refused.StatusCode
	return a, true
}

// keyDisabled is the inner code of an answer about a disabled version.
const keyDisabled = "KeyDisabled"

// kind sorts the service's answers. What is not known counts as unavailable: no key is dropped and no payload given up for a
// reason that is not understood.
func (a answer) kind(op string) crypto.Kind {
	if a.Code == "" { // something between here and the service said so
		return crypto.KindUnavailable
	}
	switch a.status {
	case http.StatusForbidden:
		switch a.Inner.Code {
		case keyDisabled:
			if op == opUnwrap {
				return crypto.KindRevoked
			}
			return crypto.KindDenied // to wrap: other versions may go on unwrapping
		case "ForbiddenByFirewall", "ForbiddenByConnection": // the network's settings say nothing about the key
			return crypto.KindUnavailable
		}
		return crypto.KindDenied
	case http.StatusNotFound:
		if a.Code == "KeyNotFound" {
			return crypto.KindRevoked
		}
	case http.StatusBadRequest:
		if op == opUnwrap {
			return crypto.KindRejected
		}
		return crypto.KindNotConfigured
	}
	return crypto.KindUnavailable
}
