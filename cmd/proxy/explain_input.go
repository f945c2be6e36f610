package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
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

// readFileOrStdin reads a whole file; "-" is standard input.
func readFileOrStdin(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

// questionFlags describe one payload on the command line.
type questionFlags struct {
	asked policy.Case
	// The payload's content, for rules that look at it.
	data string
	// Of the caller's token, each as name=value.
	claims []string
	// By the names that policies use.
	facts map[string]*string
}

// add defines the flags. Most of them write into the question itself; their defaults describe the input of a
// workflow that an anonymous caller starts.
func (q *questionFlags) add(cmd *cobra.Command) {
	f, in := cmd.Flags(), &q.asked.Input
	in.Caller = new(policy.CaseCaller)
	f.StringVar(&in.Namespace, "namespace", "default", "namespace of the call")
	f.StringVar(&in.RPC, "rpc", "StartWorkflowExecution", "method that carries the payload")
	f.StringVar(&q.asked.Direction, "direction", "request", "request or response")
	f.StringVar(&in.Payload.Kind, "kind", "input",
		"kind of payload: input, result, header, memo, signal, failure, text, ...")
	f.StringVar(&in.Payload.Name, "name", "", "name of a header, memo or search attribute")
	f.StringVar(&in.Payload.Path, "path", "", "the payload's place in the message, e.g. nexus_header")
	f.StringVar(&in.Payload.Type, "type", "", "the payload's messageType")
	f.BoolVar(&in.Payload.External, "external", false, "the payload refers to external storage of an SDK")
	f.StringVar(&in.Payload.Encoding, "encoding", "json/plain", "the payload's encoding")
	f.StringVar(&q.data, "data", "", "the payload's data, e.g. a JSON document")
	q.facts = map[string]*string{
		"workflow.id":         f.String("workflow-id", "", "workflow id"),
		"workflow.type":       f.String("workflow-type", "", "workflow type"),
		"workflow.task_queue": f.String("task-queue", "", "task queue"),
		"activity.id":         f.String("activity-id", "", "activity id"),
		"activity.type":       f.String("activity-type", "", "activity type"),
	}
	f.StringSliceVar(&q.asked.Unknown, "unknown", nil,
		"facts that the request does not contain, e.g. activity.type")
	f.StringVar(&in.Caller.Kind, "caller", "anonymous", "kind of caller: anonymous, mtls, token, jwt")
	f.StringVar(&in.Caller.Subject, "subject", "", "the caller's subject")
	f.StringArrayVar(&q.claims, "claim", nil,
		"claim of the caller's token as name=value, once for each; a value in JSON, such as [\"a\",\"b\"], is read as JSON")
	f.StringVar(&in.Caller.Listener, "listener", "default", "listener that the caller uses")
	f.StringVar(&in.Sealed.Namespace, "sealed-namespace", "",
		"responses: namespace that sealed the payload (default: that of the call)")
	f.StringVar(&in.Sealed.Key, "sealed-key", "default", "responses: key that sealed the payload")
}

// question returns the payload that the flags describe. Policies see the envelope of a payload only in
// responses, and its content only in requests, so the flags for the other direction are left out.
func (q *questionFlags) question() (policy.Case, error) {
	out := q.asked
	in := &out.Input
	if in.Payload.Kind == policy.KindText || in.Payload.Kind == policy.KindReason {
		in.Payload.Encoding = "" // texts have none
	}
	for _, text := range q.claims {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return out, fmt.Errorf("--claim %s: write name=value, for example --claim team=billing", text)
		}
		if in.Caller.Claims == nil {
			in.Caller.Claims = map[string]any{}
		}
		in.Caller.Claims[name] = claimValue(value)
	}
	// A fact without a value is left out of the input, as the proxy leaves it out.
	groups := map[string]map[string]string{"workflow": {}, "activity": {}}
	for name, value := range q.facts {
		if group, key, _ := strings.Cut(name, "."); *value != "" {
			groups[group][key] = *value
		}
	}
	in.Workflow, in.Activity = groups["workflow"], groups["activity"]
	if out.Direction == "response" {
		in.Sealed.Namespace = cmp.Or(in.Sealed.Namespace, in.Namespace)
	} else {
		in.Sealed, in.Content = policy.CaseSealed{}, &policy.CaseContent{Raw: q.data}
	}
	return out, nil
}

// claimValue reads a value that is JSON as such, and any other as a text.
func claimValue(text string) any {
	var value any
	if json.Unmarshal([]byte(text), &value) != nil {
		return text
	}
	return value
}
