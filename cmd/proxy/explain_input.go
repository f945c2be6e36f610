package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// question is one payload that explain asks the policy about, written as policies see it in `input`.
type question struct {
	Name      string        `yaml:"name"`
	Direction string        `yaml:"direction"` // request, unless said otherwise
	Input     questionInput `yaml:"input"`
	Unknown   []string      `yaml:"unknown"` // facts that the request does not tell; others that are not given do not apply
	Want      any           `yaml:"want"`    // of a case file, which `temporal-seal check` compares
}

type questionInput struct {
	Namespace string            `yaml:"namespace"`
	RPC       string            `yaml:"rpc"`
	Caller    *questionCaller   `yaml:"caller"`
	Workflow  map[string]string `yaml:"workflow"`
	Activity  map[string]string `yaml:"activity"`
	Payload   struct {
		Kind     string `yaml:"kind"`
		Name     string `yaml:"name"`
		Path     string `yaml:"path"`
		Encoding string `yaml:"encoding"`
		Type     string `yaml:"type"`
	} `yaml:"payload"`
	Content *struct {
		JSON any    `yaml:"json"`
		Raw  string `yaml:"raw"`
	} `yaml:"content"`
	Sealed struct {
		Namespace string `yaml:"namespace"`
		Key       string `yaml:"key"`
	} `yaml:"sealed"`
}

type questionCaller struct {
	Kind     string         `yaml:"kind"`
	Subject  string         `yaml:"subject"`
	Listener string         `yaml:"listener"`
	Claims   map[string]any `yaml:"claims"`
}

// questionFile is a file with several questions, in the form of the case files beside a policy.
type questionFile struct {
	Keys     []string `yaml:"keys"`
	Defaults struct {
		Namespace string          `yaml:"namespace"`
		Caller    *questionCaller `yaml:"caller"`
	} `yaml:"defaults"`
	Cases []question `yaml:"cases"`
}

// readQuestions takes one `input` document, or a case file; JSON or YAML. "-" reads standard input.
func readQuestions(file string) ([]question, error) {
	text, err := readFileOrStdin(file)
	if err != nil {
		return nil, err
	}
	var top map[string]any
	if err := yaml.Unmarshal(text, &top); err != nil {
		return nil, fmt.Errorf("%s: %s", file, firstLine(yaml.FormatError(err, false, false)))
	}
	if _, several := top["cases"]; !several {
		var q question
		if err := yaml.UnmarshalWithOptions(text, &q.Input, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("%s: %s", file, firstLine(yaml.FormatError(err, false, false)))
		}
		return []question{q}, nil
	}
	var f questionFile
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %s", file, firstLine(yaml.FormatError(err, false, false)))
	}
	for i := range f.Cases {
		in := &f.Cases[i].Input
		if in.Namespace == "" {
			in.Namespace = f.Defaults.Namespace
		}
		if in.Caller == nil {
			in.Caller = f.Defaults.Caller
		}
	}
	return f.Cases, nil
}

func readFileOrStdin(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// facts pairs the names that policies use with where policy.Input keeps them.
var facts = []struct {
	name string
	fact policy.FactSet
	at   func(*policy.Input) *string
}{
	{"workflow.id", policy.FactWorkflowID, func(in *policy.Input) *string { return &in.WorkflowID }},
	{"workflow.type", policy.FactWorkflowType, func(in *policy.Input) *string { return &in.WorkflowType }},
	{"workflow.task_queue", policy.FactTaskQueue, func(in *policy.Input) *string { return &in.TaskQueue }},
	{"activity.id", policy.FactActivityID, func(in *policy.Input) *string { return &in.ActivityID }},
	{"activity.type", policy.FactActivityType, func(in *policy.Input) *string { return &in.ActivityType }},
}

// ask turns a question into what the proxy itself would ask the policy.
func (q *question) ask() (policy.Direction, *policy.Input, error) {
	direction := policy.Request
	switch q.Direction {
	case "", "request":
	case "response":
		direction = policy.Response
	default:
		return 0, nil, fmt.Errorf("direction: %q is neither request nor response", q.Direction)
	}
	p := q.Input.Payload
	if p.Kind == "" {
		return 0, nil, errors.New("payload.kind is missing: input, result, header, memo, ...")
	}
	if !slices.Contains(policy.Kinds(), p.Kind) {
		return 0, nil, fmt.Errorf("payload.kind: %q is none of %s", p.Kind, strings.Join(policy.Kinds(), ", "))
	}
	in := &policy.Input{Namespace: q.Input.Namespace, RPC: q.Input.RPC, Kind: p.Kind, Name: p.Name, Path: p.Path, Encoding: p.Encoding, Type: p.Type,
		SealedNamespace: q.Input.Sealed.Namespace, SealedKey: q.Input.Sealed.Key}
	if c := q.Input.Caller; c != nil {
		if kinds := []string{"anonymous", "mtls", "token", "jwt"}; c.Kind != "" && !slices.Contains(kinds, c.Kind) {
			return 0, nil, fmt.Errorf("caller.kind: %q is none of %s", c.Kind, strings.Join(kinds, ", "))
		}
		in.Caller = policy.NewCaller(c.Kind, c.Subject, c.Listener, c.Claims)
	}
	if c := q.Input.Content; c != nil {
		in.Data = []byte(c.Raw)
		if c.Raw == "" {
			data, err := json.Marshal(c.JSON)
			if err != nil {
				return 0, nil, fmt.Errorf("content.json: %w", err)
			}
			in.Data = data
		}
		if in.Encoding == "" {
			in.Encoding = "json/plain"
		}
	}
	return direction, in, q.tell(in)
}

// tell fills in the facts.
func (q *question) tell(in *policy.Input) error {
	given := map[string]string{}
	for k, v := range q.Input.Workflow {
		given["workflow."+k] = v
	}
	for k, v := range q.Input.Activity {
		given["activity."+k] = v
	}
	names := make([]string, len(facts))
	for i, f := range facts {
		names[i] = f.name
		value, ok := given[f.name]
		switch {
		case ok:
			*f.at(in), in.Known = value, in.Known|f.fact
		case !slices.Contains(q.Unknown, f.name):
			in.NotApplicable |= f.fact
		}
		delete(given, f.name)
	}
	for name := range given {
		return fmt.Errorf("%s is no fact; the facts are %s", name, strings.Join(names, ", "))
	}
	for _, name := range q.Unknown {
		if !slices.Contains(names, name) {
			return fmt.Errorf("unknown: %q is no fact; the facts are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
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

func (q *questionFlags) question() question {
	out := question{Direction: q.direction, Unknown: q.unknown}
	in := &out.Input
	in.Namespace, in.RPC = q.namespace, q.rpc
	in.Caller = &questionCaller{Kind: q.callerKind, Subject: q.callerSubject, Listener: q.listener}
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
	in.Content = &struct {
		JSON any    `yaml:"json"`
		Raw  string `yaml:"raw"`
	}{Raw: q.data}
	return out
}
