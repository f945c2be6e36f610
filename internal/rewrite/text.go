package rewrite

import (
	"bytes"
	"context"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Text opens the sealed texts within a longer text, each if the policy allows it.
// changed reports whether it opened any.
func (s *Session) Text(ctx context.Context, text []byte) (out []byte, changed bool) {
	for {
		at := bytes.Index(text, []byte(envelope.TextPrefix))
		if at < 0 {
			return append(out, text...), changed
		}
		rest := bytes.TrimLeft(text[at+len(envelope.TextPrefix):], base64URL)
		found := text[at : len(text)-len(rest)]
		out = append(out, text[:at]...)
		if clear, ok := s.opening().wholeText(ctx, found); ok {
			found, changed = clear, true
		}
		out, text = append(out, found...), rest
	}
}

// base64URL is the base64url alphabet.
const base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// wholeText opens a text that is sealed from start to end, if the policy allows it.
func (o *opener) wholeText(ctx context.Context, text []byte) ([]byte, bool) {
	sealed, marked, err := envelope.ParseText(text)
	if !marked {
		return nil, false
	}
	if err != nil {
		o.noteUnopened(o.call.asError(KindOpening, textField.path, err), 1)
		return nil, false
	}
	if err := o.call.state.Keys.Resolved(ctx, &sealed, &o.run); err != nil {
		o.noteUnopened(o.call.asError(KindOpening, textField.path, err), 1)
		o.stats.Unopened++
		o.enter(textField.kind, sealed.Header, Failed)
		return nil, false
	}
	o.message.walk.reset(nil)
	o.message.walk.scopes = append(o.message.walk.scopes, scope{parent: -1})
	o.decider.begin()
	v, err := o.decider.evaluateSealed(ctx, &slot{f: &textField}, sealed.Header)
	if err != nil {
		o.noteUnopened(err, 1)
		return nil, false
	}
	if v.Action != policy.Open {
		outcome := Kept // a text is not replaced by a placeholder
		if v.Action == policy.Deny {
			outcome = Denied
			o.noteUnopened(o.call.fail(KindDenied, textField.path, &DeniedError{Reason: v.Reason}), 1)
		}
		o.enter(textField.kind, sealed.Header, outcome)
		return nil, false
	}
	sealed.Ask(o.opened)
	opened, hit, err := o.call.state.Keys.Open(ctx, nil, &sealed, o.call.namespace, &o.run)
	o.run.Count()
	if gone, is := sealed.Header.Destroyed(); is && gone.Is(err) {
		o.enter(textField.kind, sealed.Header, outcomeOf(gone))
		return []byte(gone.Text()), true
	}
	if err != nil {
		o.noteUnopened(o.call.asError(KindOpening, textField.path, err), 1)
		o.stats.Unopened++
		o.enter(textField.kind, sealed.Header, Failed)
		return nil, false
	}
	o.enter(textField.kind, sealed.Header, Opened)
	o.stats.used(sealed.Header.Key, len(opened), hit)
	return opened, true
}

// textField stands for a text of an error response, which has no place in a message.
var textField = field{kind: policy.KindFailure, path: "status.message", na: policy.AllFacts}
