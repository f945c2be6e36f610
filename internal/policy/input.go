package policy

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// MemberSet is a set of the members of `input`.
type MemberSet uint32

// FactSet is a set of facts: members about the workflow or activity that a payload belongs to. In a request,
// some of them are known, some do not apply, and the others are unknown.
type FactSet = MemberSet

// The facts, and behind them the other members. Those of content are in requests alone, those of sealed in responses.
const (
	FactWorkflowID FactSet = 1 << iota
	FactWorkflowType
	FactTaskQueue
	FactActivityID
	FactActivityType
	readNamespace
	readRPC
	readCallerKind
	readCallerSubject
	readCallerListener
	readCallerClaims // all of them; single claims are listed apart
	readKind
	readName
	readPath
	readEncoding
	readType
	readExternal
	readSealedNamespace
	readSealedKey
	readSealedGranted
	readContentJSON
	readContentSize

	readEverything MemberSet = 1<<iota - 1
	readContent              = readContentJSON | readContentSize
	AllFacts                 = readNamespace - 1
)

// member is one value in `input`.
type member struct {
	path string               // as a policy writes it behind `input.`
	read MemberSet            // the set of this member alone
	text func(*Input) *string // nil: it is no text, and document adds it
	flag func(*Input) bool    // of a member that is true or false; text then stands for it in keys of the policy cache
}

// members is the whole of `input`: all that rules can read, that a key of the policy cache holds, and that
// a case can set. A reference to anything else is refused when a policy is loaded: it would be undefined,
// so its rule would never hold.
var members = [...]member{
	{"namespace", readNamespace, func(in *Input) *string { return &in.Namespace }, nil},
	{"rpc", readRPC, func(in *Input) *string { return &in.RPC }, nil},
	{"caller.kind", readCallerKind, func(in *Input) *string { return &in.caller().Kind }, nil},
	{"caller.subject", readCallerSubject, func(in *Input) *string { return &in.caller().Subject }, nil},
	{"caller.listener", readCallerListener, func(in *Input) *string { return &in.caller().Listener }, nil},
	{"caller.claims", readCallerClaims, nil, nil},
	{"workflow.id", FactWorkflowID, func(in *Input) *string { return &in.WorkflowID }, nil},
	{"workflow.type", FactWorkflowType, func(in *Input) *string { return &in.WorkflowType }, nil},
	{"workflow.task_queue", FactTaskQueue, func(in *Input) *string { return &in.TaskQueue }, nil},
	{"activity.id", FactActivityID, func(in *Input) *string { return &in.ActivityID }, nil},
	{"activity.type", FactActivityType, func(in *Input) *string { return &in.ActivityType }, nil},
	{"payload.kind", readKind, func(in *Input) *string { return &in.Kind }, nil},
	{"payload.name", readName, func(in *Input) *string { return &in.Name }, nil},
	{"payload.path", readPath, func(in *Input) *string { return &in.Path }, nil},
	{"payload.encoding", readEncoding, func(in *Input) *string { return &in.Encoding }, nil},
	{"payload.type", readType, func(in *Input) *string { return &in.Type }, nil},
	{"payload.external", readExternal, func(in *Input) *string { return flagText(in.External) },
		func(in *Input) bool { return in.External }},
	{"content.json", readContentJSON, nil, nil},
	{"content.size", readContentSize, nil, nil},
	{"sealed.namespace", readSealedNamespace, func(in *Input) *string { return &in.Sealed.Namespace }, nil},
	{"sealed.key", readSealedKey, func(in *Input) *string { return &in.Sealed.Key }, nil},
	{"sealed.granted", readSealedGranted, func(in *Input) *string { return flagText(in.Sealed.Granted) },
		func(in *Input) bool { return in.Sealed.Granted }},
}

// factsOf returns the facts of a group, such as workflow.
func factsOf(group string) (s MemberSet) {
	for i := range members {
		if m := &members[i]; m.read&AllFacts != 0 && strings.HasPrefix(m.path, group+".") {
			s |= m.read
		}
	}
	return s
}

// flagText stands for a flag in keys of the policy cache.
func flagText(flag bool) *string {
	if flag {
		return &flagTrue
	}
	return &flagFalse
}

var flagTrue, flagFalse = "true", "false"

// caller returns the caller, never nil.
func (in *Input) caller() *Caller {
	if in.Caller == nil {
		return anonymous
	}
	return in.Caller
}

// Names lists the members of the set as a policy writes them behind `input.`.
func (s MemberSet) Names() []string {
	var names []string
	for i := range members {
		if m := &members[i]; s&m.read != 0 {
			names = append(names, m.path)
		}
	}
	return names
}

// unknown returns the facts that are neither known nor not applicable, and for a payload apart from any
// message its name and path.
func (in *Input) unknown() MemberSet {
	unknown := AllFacts &^ in.Known &^ in.NotApplicable
	if in.Apart {
		unknown |= readName | readPath
	}
	return unknown
}

// document builds `input`. OPA converts a lazy object's members when a rule first reaches them, and a
// member that is no plain Go value by way of its MarshalJSON: that is where an evaluation is seen to touch
// something.
func (e *evaluation) document(d Direction, r reads) *ast.Term {
	in := e.in
	doc := map[string]any{}
	groups := map[string]map[string]any{
		"caller": {"claims": in.caller().Claims}, "workflow": {}, "activity": {}, "payload": {},
	}
	if d == Response {
		groups["sealed"] = map[string]any{}
	} else {
		doc["content"] = e.content(r)
	}
	missing := in.unknown() & r.bits
	e.read = allTraced
	for i := range members {
		m := &members[i]
		fact := m.read&AllFacts != 0
		name, within, _ := strings.Cut(m.path, ".")
		switch group := groups[name]; {
		case m.text == nil:
		case missing&m.read != 0 && fact: // the whole group reports when it is looked into
			doc[name] = hook(func() any { e.miss(missing & factsOf(name)); return group })
		case missing&m.read != 0:
			group[within] = hook(func() any { e.miss(m.read); return "" })
		case m.read&allTraced&r.bits != 0 && in.Call != nil && utf8.ValidString(*m.text(in)): // JSON has no other texts
			e.read &^= m.read
			group[within] = hook(func() any { e.read |= m.read; return *m.text(in) })
		case fact && in.Known&m.read == 0:
		case m.flag != nil:
			if group != nil {
				group[within] = m.flag(in)
			}
		case within == "":
			doc[name] = *m.text(in)
		case group != nil:
			group[within] = *m.text(in)
		}
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
	in := e.in
	if !e.full {
		return hook(func() any {
			e.touchedContent = true
			e.cancel.Cancel()
			return map[string]any{}
		})
	}
	content := map[string]any{"size": len(in.Data)}
	if r.bits&readContentJSON == 0 {
		return content
	}
	v, err := decode(in)
	switch {
	case err == nil:
		content["json"] = v
		return content
	case err != errUnreadable && err != errTooLarge:
		e.refused = err
	}
	return hook(func() any {
		e.untold |= readContentJSON
		e.missed, e.tooLarge = true, err == errTooLarge
		return content
	})
}

// hook is a member of a lazy object that runs when it is reached.
type hook func() any

// MarshalJSON is called by OPA when a rule reaches the member.
func (h hook) MarshalJSON() ([]byte, error) { return json.Marshal(h()) }
