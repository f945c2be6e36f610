package rewrite

import (
	"context"
	"errors"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// subjectOf returns the subject of a slot's payload. One without a subject has the default one; without that it is refused, since it
// must not be sealed with a key that nobody can erase.
func subjectOf(ctx context.Context, s *sealer, sl *slot, at policy.Subject) (subject []byte, err error) {
	if at.Fact != "" {
		s.decider.facts(ctx, sl)
		value, known := s.decider.input.Fact(at.Fact)
		if err = envelope.CheckSubject([]byte(value)); !known {
			err = envelope.NoSubject
		}
		subject = []byte(value)
	} else if err = envelope.NoDocument; sl.f.op == opPayload {
		subject, err = envelope.SubjectAt(s.message.content(sl), at.Pointer)
	}
	switch {
	case err == nil:
		return subject, nil
	case takesDefault(err, at):
		return []byte(at.Default), nil
	}
	return nil, s.call.fail(KindDenied, sl.f.path, &DeniedError{Reason: at.Missing(err.Error())})
}

// takesDefault reports whether a payload is sealed for the default subject of a rule, since it has nothing where its own would be.
func takesDefault(err error, at policy.Subject) bool {
	return at.Default != "" && (errors.Is(err, envelope.NoSubject) || errors.Is(err, envelope.NoDocument))
}

// MissingSubject is a policy.MissingSubject: the answer of the sealer for a document apart from any message.
func MissingSubject(encoding string, document []byte, at policy.Subject) string {
	payload, err := proto.Marshal(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding)}, Data: document})
	if err == nil {
		_, err = envelope.SubjectAt(payload, at.Pointer)
	}
	if err == nil || takesDefault(err, at) {
		return ""
	}
	return err.Error()
}

// ShowErased has the session's Response put a placeholder in the place of values that were erased or have expired, also in histories. Without it, a history
// with such a value fails: workers replay histories, and a placeholder would change what they do.
func ShowErased(s *Session) { s.call.reads = true }

// replaceErased marks the payloads that the caller may open and that were erased or have expired, if it gets placeholders.
func replaceErased(o *opener) {
	if o.whole && (o.call.method.task || !o.call.reads) {
		return
	}
	for i := range o.items {
		it := &o.items[i]
		if _, is := it.sealed.Header.Destroyed(); is && it.action == policy.Open {
			it.action, it.gone = policy.Redact, true
		}
	}
}

// NamesSubjects reports whether a rule of the policy names a subject in the namespace of a session's call.
func NamesSubjects(s *Session) bool { return policy.NamesSubjects(s.call.policy, s.call.namespace) }
