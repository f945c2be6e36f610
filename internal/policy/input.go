package policy

import (
	"encoding/json"

	"github.com/open-policy-agent/opa/v1/ast"
)

// factTable joins each fact with its name and place in an Input.
var factTable = []struct {
	fact  FactSet
	read  readSet
	name  string // as in `unknown: [workflow.type]`
	group string
	key   string
	field func(*Input) *string
}{
	{FactWorkflowID, readWorkflowID, "workflow.id", "workflow", "id", func(in *Input) *string { return &in.WorkflowID }},
	{FactWorkflowType, readWorkflowType, "workflow.type", "workflow", "type", func(in *Input) *string { return &in.WorkflowType }},
	{FactTaskQueue, readTaskQueue, "workflow.task_queue", "workflow", "task_queue", func(in *Input) *string { return &in.TaskQueue }},
	{FactActivityID, readActivityID, "activity.id", "activity", "id", func(in *Input) *string { return &in.ActivityID }},
	{FactActivityType, readActivityType, "activity.type", "activity", "type", func(in *Input) *string { return &in.ActivityType }},
}

// Names lists the facts of the set as a policy writes them behind `input.`.
func (f FactSet) Names() []string {
	var names []string
	for _, row := range factTable {
		if f&row.fact != 0 {
			names = append(names, row.name)
		}
	}
	return names
}

// unknown returns the facts that the call does not tell.
func (in *Input) unknown() FactSet { return AllFacts &^ in.Known &^ in.NotApplicable }

// touched records what an evaluation asked for that was not there to be read.
type touched struct {
	content bool // the payload's content, not yet decoded
	blind   bool // input.content.json of a payload that cannot be decoded
	unknown bool // an object in which a fact is missing that the rules may want
	abort   func()
}

// document builds `input`. OPA converts a lazy object's members when a rule first
// reaches them, and a member that is no plain Go value by way of its MarshalJSON:
// that is where an evaluation is seen to touch something. full adds the content.
func document(in *Input, d Direction, r reads, full bool, t *touched) *ast.Term {
	c := in.Caller
	if c == nil {
		c = anonymous
	}
	doc := map[string]any{
		"namespace": in.Namespace,
		"rpc":       in.RPC,
		"caller":    map[string]any{"kind": c.Kind, "subject": c.Subject, "listener": c.Listener, "claims": c.Claims},
		"payload":   map[string]any{"kind": in.Kind, "name": in.Name, "path": in.Path, "encoding": in.Encoding, "type": in.Type},
	}
	if in.Apart {
		unknown := hook(func() any { t.unknown = true; return "" })
		doc["payload"] = map[string]any{"kind": in.Kind, "name": unknown, "path": unknown, "encoding": in.Encoding, "type": in.Type}
	}
	doc["workflow"] = facts(in, "workflow", r, t)
	doc["activity"] = facts(in, "activity", r, t)
	if d == Response {
		doc["sealed"] = map[string]any{"namespace": in.SealedNamespace, "key": in.SealedKey}
	} else {
		doc["content"] = contentMember(in, r, full, t)
	}
	return ast.NewTerm(ast.LazyObject(doc))
}

// facts builds input.workflow or input.activity of what is known. Where a fact is
// missing that the rules may read, the object reports when it is looked into.
func facts(in *Input, group string, r reads, t *touched) any {
	known := map[string]any{}
	watch := false
	unknown := in.unknown() & r.facts()
	for _, row := range factTable {
		if row.group != group {
			continue
		}
		if in.Known&row.fact != 0 {
			known[row.key] = *row.field(in)
		}
		watch = watch || unknown&row.fact != 0
	}
	if !watch {
		return known
	}
	return hook(func() any { t.unknown = true; return known })
}

func contentMember(in *Input, r reads, full bool, t *touched) any {
	if !full {
		return hook(func() any {
			t.content = true
			if t.abort != nil {
				t.abort()
			}
			return map[string]any{}
		})
	}
	content := map[string]any{"size": len(in.Data)}
	if r.bits&readContentJSON == 0 {
		return content
	}
	if v, ok := decode(in); ok {
		content["json"] = v
		return content
	}
	return hook(func() any { t.blind = true; return content })
}

// hook is a member of a lazy object that runs when it is reached.
type hook func() any

// MarshalJSON is called by OPA when a rule reaches the member.
func (h hook) MarshalJSON() ([]byte, error) { return json.Marshal(h()) }
