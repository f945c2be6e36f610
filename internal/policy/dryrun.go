package policy

import (
	"context"
	"errors"
)

// Kinds lists every kind of payload that the contract names.
func Kinds() []string {
	return []string{KindInput, KindResult, KindMemo, KindHeader, KindSignal, KindQuery, KindUpdate,
		KindHeartbeat, KindFailure, KindMarker, KindDetails, KindMetadata, KindSearchAttribute, KindReason, KindText}
}

// dryRun evaluates both queries of a namespace once per kind of payload before they are used, on inputs
// without real values.
func dryRun(ctx context.Context, namespace string, queries [2]*query) error {
	// Every key counts as configured here: which keys are depends on the namespace, and the platform's
	// rules are tried in one that does not exist.
	trial := &Policy{keys: newKeys(nil, nil)}
	var errs []error
	seen := map[string]bool{}
	for d, q := range queries {
		for _, kind := range Kinds() {
			in := trialInput(namespace, kind, Direction(d))
			v, _, err := trial.evaluate(ctx, q, in, true)
			if err == nil {
				err = q.checkMasked(ctx, v.Action, in)
			}
			if err != nil && !seen[err.Error()] {
				seen[err.Error()] = true
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// trialInput is a made-up payload whose facts are all known.
func trialInput(namespace, kind string, d Direction) *Input {
	if namespace == "" {
		namespace = "trial"
	}
	in := &Input{
		Namespace: namespace, RPC: "StartWorkflowExecution", Caller: anonymous,
		WorkflowID: "trial/1", WorkflowType: "Trial", TaskQueue: "trial", ActivityID: "1", ActivityType: "Trial",
		Known: AllFacts,
		Kind:  kind, Name: "trial", Path: "trial", Encoding: "json/plain",
		Data: []byte(`{"trial":["text",1,true,null]}`),
	}
	if d == Response {
		in.Sealed.Namespace, in.Sealed.Key = namespace, "default"
	}
	return in
}
