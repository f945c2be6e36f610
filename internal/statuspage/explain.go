package statuspage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// MaxForm bounds the form of explain, in bytes.
const MaxForm = 64 << 10

// Explain is the page on which somebody describes a payload and reads what the policy decides about it.
type Explain struct {
	// Form is what was entered; the page shows it again.
	Form Form
	// RPCs and Namespaces are offered to choose from.
	RPCs, Namespaces []string
	// Revision is that of the policy which is asked.
	Revision string
	// Answer is the decision; nil: none was asked for.
	Answer *policy.Explanation
	// Error says why there is no verdict; "" if there is one, or none was asked for.
	Error string
}

// Form describes a payload as the flags of the command explain do. A fact that is left empty does not apply, unless it is
// unknown.
type Form struct {
	Direction, Namespace, RPC           string
	Kind, Name, Path, Encoding, Type    string
	External                            bool
	WorkflowID, WorkflowType, TaskQueue Fact
	ActivityID, ActivityType            Fact
	Caller                              CallerForm
	Content                             string
	Sealed                              policy.CaseSealed
}

// CallerForm describes a caller; Claims is a JSON object.
type CallerForm struct{ Kind, Subject, Listener, Claims string }

// Fact is one that a request contains, lacks, or to which it does not apply.
type Fact struct {
	Value   string
	Unknown bool
}

// NewForm is the form before anything is entered.
func NewForm() Form {
	return Form{Direction: "request", Namespace: "default", RPC: "StartWorkflowExecution", Kind: policy.KindInput, Encoding: "json/plain",
		Caller: CallerForm{Kind: policy.CallerAnonymous, Listener: "default"}, Sealed: policy.CaseSealed{Key: "default"}}
}

// ReadForm reads what a browser has sent.
func ReadForm(r *http.Request) (Form, error) {
	if err := r.ParseForm(); err != nil {
		return Form{}, fmt.Errorf("the form cannot be read: it may have %d bytes, as application/x-www-form-urlencoded", MaxForm)
	}
	get := r.PostForm.Get
	fact := func(name string) Fact { return Fact{get(name), get(name+"_unknown") != ""} }
	f := Form{Direction: get("direction"), Namespace: get("namespace"), RPC: get("rpc"), Kind: get("kind"), Name: get("name"), Path: get("path"),
		Encoding: get("encoding"), Type: get("type"), WorkflowID: fact("workflow_id"), WorkflowType: fact("workflow_type"),
		TaskQueue: fact("task_queue"), ActivityID: fact("activity_id"), ActivityType: fact("activity_type"),
		Caller:  CallerForm{get("caller_kind"), get("caller_subject"), get("caller_listener"), get("claims")},
		Content: get("content"), External: get("external") != "",
		Sealed: policy.CaseSealed{Namespace: get("sealed_namespace"), Key: get("sealed_key"), Granted: get("granted") != ""}}
	for _, values := range r.PostForm {
		for _, value := range values {
			if !utf8.ValidString(value) {
				return f, fmt.Errorf("the form holds a text that is not UTF-8")
			}
		}
	}
	return f, nil
}

// question returns the payload as the policy's cases describe it.
func (f *Form) question() (*policy.Case, error) {
	c := &policy.Case{Direction: f.Direction}
	in := &c.Input
	in.Namespace, in.RPC, in.Workflow, in.Activity = f.Namespace, f.RPC, map[string]string{}, map[string]string{}
	in.Payload = policy.CasePayload{Kind: f.Kind, Name: f.Name, Path: f.Path, Encoding: f.Encoding, Type: f.Type, External: f.External}
	if f.Kind == policy.KindText || f.Kind == policy.KindReason {
		in.Payload.Encoding = "" // texts have none
	}
	in.Caller = &policy.CaseCaller{Kind: f.Caller.Kind, Subject: f.Caller.Subject, Listener: f.Caller.Listener}
	if strings.TrimSpace(f.Caller.Claims) != "" {
		if err := json.Unmarshal([]byte(f.Caller.Claims), &in.Caller.Claims); err != nil {
			return nil, fmt.Errorf(`the claims are no JSON object: write {"team": "billing"}`)
		}
	}
	for _, fact := range []struct {
		of    map[string]string
		group string
		name  string
		given Fact
	}{
		{in.Workflow, "workflow", "id", f.WorkflowID}, {in.Workflow, "workflow", "type", f.WorkflowType},
		{in.Workflow, "workflow", "task_queue", f.TaskQueue}, {in.Activity, "activity", "id", f.ActivityID},
		{in.Activity, "activity", "type", f.ActivityType},
	} {
		if fact.given.Unknown {
			c.Unknown = append(c.Unknown, fact.group+"."+fact.name)
		} else if fact.given.Value != "" {
			fact.of[fact.name] = fact.given.Value
		}
	}
	if f.Direction == policy.Response.String() {
		in.Sealed = f.Sealed
		if in.Sealed.Namespace == "" {
			in.Sealed.Namespace = f.Namespace
		}
	} else if f.Content != "" {
		in.Content = &policy.CaseContent{Raw: f.Content}
	}
	return c, nil
}

// Ask has a policy decide about what the form describes.
func (e *Explain) Ask(ctx context.Context, p *policy.Policy) {
	c, err := e.Form.question()
	if err == nil {
		var in *policy.Input
		var d policy.Direction
		if d, in, err = p.Question(c); err == nil {
			var answer policy.Explanation
			answer, err = p.Explain(ctx, d, in)
			e.Answer = &answer
		}
	}
	if err != nil {
		e.Error = err.Error()
	}
}

// Kinds and CallerKinds are what the form offers.
func (*Explain) Kinds() []string       { return policy.Kinds() }
func (*Explain) CallerKinds() []string { return policy.CallerKinds() }

// WriteHTML writes the page.
func (e *Explain) WriteHTML(w io.Writer) error { return pages.ExecuteTemplate(w, "explain.html", e) }
