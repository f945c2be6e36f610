package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// NoRuleOpens is the reason of a deny where no rule has a verdict for a sealed payload.
const NoRuleOpens = "no rule opens it"

// actions are those of each direction, the strictest last.
var actions = [...][]Action{
	Request:  {Pass, Accept, Seal, Mask, Redact, Drop, Deny},
	Response: {Open, Keep, Redact, Deny},
}

// strictness orders the actions of a direction; the highest wins.
func strictness(a Action, d Direction) int { return slices.Index(actions[d], a) }

// parseProposal reads one element of a set. The errors name members, not values:
// a value may have come from a payload.
func parseProposal(v ast.Value, d Direction, kind string) (Verdict, error) {
	var p Verdict
	obj, ok := v.(ast.Object)
	if !ok {
		return p, fmt.Errorf("a verdict must be an object such as {\"action\": \"deny\"}, and this one is %s", article(ast.ValueName(v)))
	}
	action, ok := stringMember(obj, "action")
	if !ok {
		return p, fmt.Errorf("a verdict requires \"action\", a string")
	}
	i := slices.IndexFunc(actions[d], func(a Action) bool { return a.String() == action })
	if i < 0 {
		return p, fmt.Errorf("unknown action; the actions of a %s are %s", d, knownActions(d))
	}
	p.Action = actions[d][i]
	if p.Action == Redact && d == Request && !readable(kind) {
		return p, fmt.Errorf("the action redact in a request is for payload.kind %q and %q alone", KindReason, KindText)
	}
	if p.Action == Drop && kind != KindSearchAttribute {
		return p, fmt.Errorf("the action drop is for payload.kind %q alone", KindSearchAttribute)
	}
	if err := p.members(obj); err != nil {
		return p, err
	}
	return p, nil
}

// memberTypes describe the values of a verdict's members.
var memberTypes = map[string]string{
	"key":      "a string that is not empty",
	"reason":   "a string",
	"compress": "true or false",
	"fields":   `an array or a set of JSON pointers such as "/patient_id"`,
	"clear":    `an array or a set of JSON pointers such as "/patient_id"`,
	"missing":  `"pass"`,
}

// members reads a verdict's other members. Each belongs to one action, and an unknown one is an error: a
// misspelled "key" must not seal with the default key.
func (p *Verdict) members(obj ast.Object) error {
	var fields, clear, missing bool
	mask := p.Action == Mask
	var otherwise string // default_subject
	err := obj.Iter(func(k, v *ast.Term) error {
		name, _ := k.Value.(ast.String)
		seal, deny := p.Action == Seal, p.Action == Deny
		ok := true
		switch {
		case name == "action":
		case name == "key" && seal:
			p.Key, ok = stringMember(obj, "key")
			ok = ok && p.Key != ""
		case name == "reason" && deny:
			p.Reason, ok = stringMember(obj, "reason")
		case name == "compress" && seal:
			var b ast.Boolean
			b, ok = v.Value.(ast.Boolean)
			p.Compress = bool(b)
		case name == "subject" && seal:
			var err error
			if p.Subject, err = readSubject(v.Value); err != nil {
				return err
			}
		case name == "default_subject" && seal:
			otherwise, ok = stringMember(obj, "default_subject")
			ok = ok && otherwise != "" && len(otherwise) <= maxSubject
		case name == "fields" && (seal || mask):
			fields = true
			p.Fields, ok = pointers(v.Value)
		case name == "clear" && seal:
			clear = true
			p.Clear, ok = pointers(v.Value)
		case name == "missing" && (seal || mask):
			missing = true
			ok = v.Value.Compare(ast.String("pass")) == 0
		default:
			return fmt.Errorf("action %s has no member %s; remove it, or correct the name", p.Action, name)
		}
		if !ok {
			return fmt.Errorf("member %s of action %s must be %s", name, p.Action, memberTypes[string(name)])
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case fields && clear:
		return errors.New("a verdict must not have both \"fields\" and \"clear\"; remove one of them")
	case mask && p.Fields == nil:
		return errors.New("action mask requires \"fields\", JSON pointers to members of the document; to refuse the whole payload, use deny")
	case otherwise != "" && !p.Subject.Named():
		return errors.New("member \"default_subject\" requires \"subject\"")
	case missing && !fields:
		return errors.New("member \"missing\" requires \"fields\"")
	case missing:
		p.Optional = p.Fields
	}
	p.Subject.Default = otherwise
	return nil
}

// pointers reads an array or set of JSON pointers. The pointer to the whole
// document makes it the whole payload, as does an empty list: what names nothing
// to seal is taken as a slip, and a slip must not leave a document readable.
func pointers(v ast.Value) ([]string, bool) {
	list, ok := v.(interface{ Foreach(func(*ast.Term)) })
	if _, object := v.(ast.Object); !ok || object {
		return nil, false
	}
	var out []string
	whole := false
	list.Foreach(func(t *ast.Term) {
		s, isString := t.Value.(ast.String)
		switch {
		case !isString || (s != "" && s[0] != '/') || badEscape(string(s)):
			ok = false
		case s == "":
			whole = true
		default:
			out = append(out, strings.Clone(string(s)))
		}
	})
	if whole {
		out = nil
	}
	return unique(out), ok
}

// badEscape reports whether a JSON pointer has a ~ that is not part of ~0 or ~1 (RFC 6901).
func badEscape(pointer string) bool {
	for i := range len(pointer) {
		if pointer[i] == '~' && (i+1 == len(pointer) || (pointer[i+1] != '0' && pointer[i+1] != '1')) {
			return true
		}
	}
	return false
}

// stringMember returns a member that is a string.
func stringMember(obj ast.Object, name string) (string, bool) {
	t := obj.Get(ast.StringTerm(name))
	if t == nil {
		return "", false
	}
	s, ok := t.Value.(ast.String)
	return strings.Clone(string(s)), ok // the value may alias the message
}

func knownActions(d Direction) string {
	var names []string
	for _, a := range actions[d] {
		names = append(names, a.String())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

// keys resolves key names for a namespace.
type keys struct {
	rank     KeyRank
	fallback DefaultKey
}

// newKeys fills in what is nil, as [Options] says.
func newKeys(rank KeyRank, fallback DefaultKey) keys {
	if rank == nil {
		rank = func(string, string) (int, bool) { return 0, true }
	}
	if fallback == nil {
		fallback = func(string) (string, bool) { return "default", true }
	}
	return keys{rank, fallback}
}

// resolve returns the key that a verdict names, or the default key.
func (k keys) resolve(namespace, name string) (string, error) {
	if name == "" {
		var ok bool
		if name, ok = k.fallback(namespace); !ok {
			return "", fmt.Errorf("no default key serves namespace %q; "+
				"add it to the `namespaces` of an entry in `keys`", namespace)
		}
	}
	if _, ok := k.rank(namespace, name); !ok {
		return "", fmt.Errorf("key %q is not configured for namespace %q; "+
			"add it to `keys`, or the namespace to its `namespaces`", name, namespace)
	}
	return name, nil
}

// stricter returns the key that the configuration names first, or of two with one rank the first by name.
// "" is no key.
func (k keys) stricter(namespace, a, b string) string {
	if a == "" || b == "" {
		return cmp.Or(a, b)
	}
	first, _ := k.rank(namespace, a)
	second, _ := k.rank(namespace, b)
	if second < first || second == first && b < a {
		return b
	}
	return a
}

// unite joins the proposals of all packages: the strictest action wins, among keys the one named first in
// the configuration, the whole payload before parts of it. unsure reports that the rules read something
// that is unknown in this call, so that nothing may stay readable on their word.
//
// The proposals of the platform's rules and of the namespace's count alike. They come from one evaluation of both packages
// (query.evaluate in query.go), and decideFrom in policy.go hands them in. Two other places join verdicts that were united
// before: rewrite/decide.go (stricter) those of two namespaces, for commands to another one, and apart.go those for all
// kinds that a payload without its message may have.
func unite(d Direction, in *Input, proposals []Verdict, k keys, unsure bool) (Verdict, error) {
	inClear := in.Kind == KindSearchAttribute || readable(in.Kind)
	var v Verdict
	for _, p := range proposals {
		if d == Request && inClear && (p.Action == Seal || p.Action == Accept) {
			continue // the server indexes or prints these, so they cannot be sealed
		}
		if v.Action == NoAction || strictness(p.Action, d) > strictness(v.Action, d) {
			v.Action = p.Action
		}
	}
	switch {
	case v.Action == NoAction && d == Response:
		return Verdict{Action: Deny, Reason: NoRuleOpens}, nil
	case v.Action == NoAction && inClear:
		v.Action = Pass
	case v.Action == NoAction:
		v.Action = Seal
	case v.Action == Pass && unsure && !inClear:
		v.Action, v.Weakened = Seal, true
	case v.Action == Open && unsure && in.Apart:
		v.Action, v.Weakened = Keep, true
	}
	switch v.Action {
	case Deny:
		v.Reason = reasons(proposals)
	case Seal, Mask, Accept:
		if err := v.seal(in.Namespace, proposals, k); err != nil {
			return Verdict{}, err
		}
		if unsure && (v.Fields != nil || v.Clear != nil) {
			v.Whole()
			v.Weakened = true
		}
	}
	return v, nil
}

// Whole has the whole payload sealed instead of parts of it.
func (v *Verdict) Whole() { v.Fields, v.Optional, v.Clear = nil, nil, nil }

// seal fills in the key and the parts to seal.
func (v *Verdict) seal(namespace string, proposals []Verdict, k keys) (err error) {
	v.Compress = true
	for _, p := range proposals {
		if p.Action != Seal {
			continue
		}
		key, err := k.resolve(namespace, p.Key)
		if err != nil && p.computedKey {
			return errors.New("a rule computed the name of a key from the payload, and no such key is configured; " +
				"add it, or a pattern for it, to `keys`")
		}
		if err != nil {
			return err
		}
		v.Key = k.stricter(namespace, v.Key, key)
		// Compressed lengths reveal something about the content, so one rule cannot ask for compression where
		// another seals the same payload without.
		v.Compress = v.Compress && p.Compress
	}
	if v.Key == "" { // no rule seals
		v.Compress = false
		if v.Key, err = k.resolve(namespace, ""); err != nil {
			return err
		}
	}
	if v.Subject, err = subject(proposals); err != nil {
		return err
	}
	v.Fields, v.Clear = parts(proposals)
	v.Optional = optional(v.Fields, proposals)
	v.Masked = masking(proposals)
	return nil
}

// parts joins what is to be sealed within a document: all fields that any rule
// names; or, of what rules leave readable, only that on which they agree. Where
// both ways of saying it meet, the document is sealed whole. A verdict that says
// neither leaves nothing readable, and so neither does the union.
func parts(proposals []Verdict) (fields, clear []string) {
	first := true
	for _, p := range proposals {
		switch {
		case p.Action != Seal:
		case p.Fields != nil:
			fields = append(fields, p.Fields...)
		case first:
			clear, first = slices.Clone(p.Clear), false
		default:
			clear = slices.DeleteFunc(clear, func(s string) bool { return !slices.Contains(p.Clear, s) })
		}
	}
	if (len(fields) > 0 && !first) || (len(fields) == 0 && len(clear) == 0) {
		return nil, nil
	}
	return unique(fields), clear
}

// optional returns the fields that a document need not have: those that no rule names without saying so.
func optional(fields []string, proposals []Verdict) (out []string) {
	for _, field := range fields {
		required := func(p Verdict) bool {
			return p.Action == Seal && slices.Contains(p.Fields, field) && !slices.Contains(p.Optional, field)
		}
		if !slices.ContainsFunc(proposals, required) {
			out = append(out, field)
		}
	}
	return out
}

// reasons joins the reasons of all that deny, each once and in a fixed order.
func reasons(proposals []Verdict) string {
	var all []string
	for _, p := range proposals {
		if p.Action == Deny && p.Reason != "" {
			all = append(all, p.Reason)
		}
	}
	if len(all) == 0 {
		return "denied by policy"
	}
	return strings.Join(unique(all), "; ")
}
