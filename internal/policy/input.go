package policy

import (
	"encoding/json"

	"github.com/open-policy-agent/opa/v1/ast"
)

// readSet is a set of the members of `input`.
type readSet uint32

const (
	readNamespace readSet = 1 << iota
	readRPC
	readCallerKind
	readCallerSubject
	readCallerListener
	readCallerClaims // all of them; single claims are listed apart
	readWorkflowID
	readWorkflowType
	readTaskQueue
	readActivityID
	readActivityType
	readKind
	readName
	readPath
	readEncoding
	readType
	readSealedNamespace
	readSealedKey
	readContentJSON
	readContentSize

	readEverything readSet = 1<<iota - 1
	readContent            = readContentJSON | readContentSize
)

// member is one value in `input`: input.<group>.<name>, or input.<name> without a group.
type member struct {
	group, name string
	read        readSet
	fact        FactSet              // 0: none, so every call has it
	text        func(*Input) *string // nil: it is no text, and document adds it
}

// members is the whole of `input`: all that rules can read, that a key of the policy cache holds, and that
// a case can set. A reference to anything else is refused when a policy is loaded: it would be undefined,
// so its rule would never hold.
var members = [...]member{
	{"", "namespace", readNamespace, 0, func(in *Input) *string { return &in.Namespace }},
	{"", "rpc", readRPC, 0, func(in *Input) *string { return &in.RPC }},
	{"caller", "kind", readCallerKind, 0, func(in *Input) *string { return &in.caller().Kind }},
	{"caller", "subject", readCallerSubject, 0, func(in *Input) *string { return &in.caller().Subject }},
	{"caller", "listener", readCallerListener, 0, func(in *Input) *string { return &in.caller().Listener }},
	{"caller", "claims", readCallerClaims, 0, nil},
	{"workflow", "id", readWorkflowID, FactWorkflowID, func(in *Input) *string { return &in.WorkflowID }},
	{"workflow", "type", readWorkflowType, FactWorkflowType, func(in *Input) *string { return &in.WorkflowType }},
	{"workflow", "task_queue", readTaskQueue, FactTaskQueue, func(in *Input) *string { return &in.TaskQueue }},
	{"activity", "id", readActivityID, FactActivityID, func(in *Input) *string { return &in.ActivityID }},
	{"activity", "type", readActivityType, FactActivityType, func(in *Input) *string { return &in.ActivityType }},
	{"payload", "kind", readKind, 0, func(in *Input) *string { return &in.Kind }},
	{"payload", "name", readName, 0, func(in *Input) *string { return &in.Name }},
	{"payload", "path", readPath, 0, func(in *Input) *string { return &in.Path }},
	{"payload", "encoding", readEncoding, 0, func(in *Input) *string { return &in.Encoding }},
	{"payload", "type", readType, 0, func(in *Input) *string { return &in.Type }},
	{"content", "json", readContentJSON, 0, nil},
	{"content", "size", readContentSize, 0, nil},
	{"sealed", "namespace", readSealedNamespace, 0, func(in *Input) *string { return &in.SealedNamespace }},
	{"sealed", "key", readSealedKey, 0, func(in *Input) *string { return &in.SealedKey }},
}

// path is the member as a policy writes it behind `input.`.
func (m *member) path() string {
	if m.group == "" {
		return m.name
	}
	return m.group + "." + m.name
}

// caller returns the caller, never nil.
func (in *Input) caller() *Caller {
	if in.Caller == nil {
		return anonymous
	}
	return in.Caller
}

// Names lists the facts of the set as a policy writes them behind `input.`.
func (f FactSet) Names() []string {
	var names []string
	for i := range members {
		if m := &members[i]; f&m.fact != 0 {
			names = append(names, m.path())
		}
	}
	return names
}

// unknown returns the facts that are neither known nor not applicable.
func (in *Input) unknown() FactSet { return AllFacts &^ in.Known &^ in.NotApplicable }

// touched records which missing things an evaluation tried to read. A verdict to leave something readable
// is not taken from rules that read something missing: they might decide otherwise if they knew it.
type touched struct {
	content bool // the payload's content, not yet decoded
	blind   bool // input.content.json of a payload that cannot be decoded
	unknown bool // an object in which a fact is missing that the rules can read
	abort   func()
}

// document builds `input`. OPA converts a lazy object's members when a rule first reaches them, and a
// member that is no plain Go value by way of its MarshalJSON: that is where an evaluation is seen to touch
// something.
func (e *evaluation) document(d Direction, r reads) *ast.Term {
	in, t := e.in, &e.touched
	doc := map[string]any{}
	groups := map[string]map[string]any{
		"caller": {"claims": in.caller().Claims}, "workflow": {}, "activity": {}, "payload": {},
	}
	if d == Response {
		groups["sealed"] = map[string]any{}
	} else {
		doc["content"] = e.content(r)
	}
	missing := in.unknown() & r.facts()
	for i := range members {
		m := &members[i]
		switch group := groups[m.group]; {
		case m.text == nil:
		case missing&m.fact != 0: // the whole group reports when it is looked into
			doc[m.group] = hook(func() any { t.unknown = true; return group })
		case m.fact != 0 && in.Known&m.fact == 0:
		case m.group == "":
			doc[m.name] = *m.text(in)
		case group != nil:
			group[m.name] = *m.text(in)
		}
	}
	if in.Apart {
		unknown := hook(func() any { t.unknown = true; return "" })
		groups["payload"]["name"], groups["payload"]["path"] = unknown, unknown
	}
	for name, group := range groups {
		if doc[name] == nil {
			doc[name] = group
		}
	}
	return ast.NewTerm(ast.LazyObject(doc))
}

// content returns input.content. Before it is decoded, it is a member that ends the evaluation when a rule
// reaches it: most rules never do, and their verdicts can be cached.
func (e *evaluation) content(r reads) any {
	in, t := e.in, &e.touched
	if !e.full {
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
