package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// readQuestions reads one `input` document, or a case file; "-" is standard input.
func readQuestions(file string) ([]policy.Case, error) {
	text, err := readFileOrStdin(file)
	if err != nil {
		return nil, err
	}
	questions, err := policy.ParseQuestions(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return questions, nil
}

func readFileOrStdin(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

// checkCaller refuses kinds of callers that there are not, which no rule would ever see.
func checkCaller(c *policy.CaseCaller) error {
	kinds := []string{"anonymous", "mtls", "token", "jwt"}
	if c == nil || c.Kind == "" || slices.Contains(kinds, c.Kind) {
		return nil
	}
	return fmt.Errorf("caller.kind: %q is none of %s", c.Kind, strings.Join(kinds, ", "))
}

// questionFlags describe one payload on the command line.
type questionFlags struct {
	namespace, rpc, direction                                     string
	workflowID, workflowType, taskQueue, activityID, activityType string
	kind, name, encoding, data                                    string
	callerKind, callerSubject, listener                           string
	sealedNamespace, sealedKey                                    string
	unknown                                                       []string
}

func (q *questionFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.namespace, "namespace", "default", "namespace of the call")
	f.StringVar(&q.rpc, "rpc", "StartWorkflowExecution", "method that carries the payload")
	f.StringVar(&q.direction, "direction", "request", "request or response")
	f.StringVar(&q.kind, "kind", "input", "kind of payload: input, result, header, memo, signal, failure, ...")
	f.StringVar(&q.name, "name", "", "name of a header, memo or search attribute")
	f.StringVar(&q.encoding, "encoding", "json/plain", "the payload's encoding")
	f.StringVar(&q.data, "data", "", "the payload's data, e.g. a JSON document")
	f.StringVar(&q.workflowID, "workflow-id", "", "workflow id")
	f.StringVar(&q.workflowType, "workflow-type", "", "workflow type")
	f.StringVar(&q.taskQueue, "task-queue", "", "task queue")
	f.StringVar(&q.activityID, "activity-id", "", "activity id")
	f.StringVar(&q.activityType, "activity-type", "", "activity type")
	f.StringSliceVar(&q.unknown, "unknown", nil, "facts that the request does not tell, e.g. activity.type")
	f.StringVar(&q.callerKind, "caller", "anonymous", "kind of caller: anonymous, mtls, token, jwt")
	f.StringVar(&q.callerSubject, "subject", "", "the caller's subject")
	f.StringVar(&q.listener, "listener", "default", "listener that the caller uses")
	f.StringVar(&q.sealedNamespace, "sealed-namespace", "", "responses: namespace that sealed the payload (default: that of the call)")
	f.StringVar(&q.sealedKey, "sealed-key", "default", "responses: key that sealed the payload")
}

func (q *questionFlags) question() policy.Case {
	out := policy.Case{Direction: q.direction, Unknown: q.unknown}
	in := &out.Input
	in.Namespace, in.RPC = q.namespace, q.rpc
	in.Caller = &policy.CaseCaller{Kind: q.callerKind, Subject: q.callerSubject, Listener: q.listener}
	in.Workflow, in.Activity = map[string]string{}, map[string]string{}
	for _, f := range []struct {
		to          map[string]string
		name, value string
	}{{in.Workflow, "id", q.workflowID}, {in.Workflow, "type", q.workflowType}, {in.Workflow, "task_queue", q.taskQueue},
		{in.Activity, "id", q.activityID}, {in.Activity, "type", q.activityType}} {
		if f.value != "" {
			f.to[f.name] = f.value
		}
	}
	in.Payload.Kind, in.Payload.Name, in.Payload.Encoding = q.kind, q.name, q.encoding
	if q.direction == "response" {
		in.Sealed.Namespace, in.Sealed.Key = q.sealedNamespace, q.sealedKey
		if in.Sealed.Namespace == "" {
			in.Sealed.Namespace = q.namespace
		}
		return out
	}
	in.Content = &policy.CaseContent{Raw: q.data}
	return out
}
