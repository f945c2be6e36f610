package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// caseFile holds inputs and the final verdicts expected for them, by the names of these fields in lower
// case. A test in Rego sees the verdicts of one package, while a case checks the union of all packages.
type caseFile struct {
	Keys     []string // the most sensitive first, as in the configuration
	Defaults struct {
		Namespace string
		Caller    *CaseCaller
	}
	Cases []Case
}

// Case is one payload to decide about, and the verdict expected for it.
type Case struct {
	Name      string
	Direction string // request unless said otherwise
	Input     CaseInput
	Unknown   []string // facts that are unknown; those neither here nor given do not apply
	Want      caseWant
}

// CaseInput is a payload and its call, written as policies see them in `input`.
type CaseInput struct {
	Namespace, RPC     string
	Caller             *CaseCaller
	Workflow, Activity map[string]string
	Payload            CasePayload
	Content            *CaseContent
	Sealed             CaseSealed
}

// CaseCaller is the caller of a case.
type CaseCaller struct {
	Kind, Subject, Listener string
	Claims                  map[string]any
}

// CasePayload is where the payload is found, and what it is.
type CasePayload struct {
	Kind, Name, Path, Encoding, Type string
	External                         bool
}

// CaseContent is the payload's data.
type CaseContent struct {
	JSON any
	Raw  string // the payload's bytes as they are, instead of json
}

// CaseSealed is the envelope's namespace and key, and whether a grant lets the call's namespace open it, for responses.
type CaseSealed struct {
	Namespace, Key string
	Granted        bool
}

// caseWant is an expected verdict. Members that a case leaves out are not compared.
type caseWant struct {
	Action, Key, Reason     string
	Fields, Optional, Clear []string
	Masked                  []string // members that are masked; Optional has those of them, too, that may be missing
	Compress, Weakened      *bool
	Unmatched               *bool // whether the whole payload is sealed since it lacks one of the fields
	Subject                 *caseSubject
	Error                   string // part of the error's text, instead of a verdict
}

// caseSubject is the place where a subject is expected to be found; neither: none.
type caseSubject struct {
	Pointer, Fact string
	Default       string // default_subject
}

// readCases reads a case file. A file without cases is an error, since it checks nothing.
func readCases(name string) (caseFile, error) {
	var f caseFile
	text, err := os.ReadFile(name)
	if err != nil {
		return f, fmt.Errorf("cannot read the cases: %w", err)
	}
	if err := f.parse(text); err != nil {
		return f, fmt.Errorf("%s: %s", name, yaml.FormatError(err, false, false))
	}
	if len(f.Cases) == 0 {
		return f, fmt.Errorf("%s: `cases` is missing", name)
	}
	return f, nil
}

// parse decodes a case file and fills in the defaults.
func (f *caseFile) parse(text []byte) error {
	if err := yaml.UnmarshalWithOptions(text, f, yaml.Strict()); err != nil {
		return err
	}
	for i := range f.Cases {
		in := &f.Cases[i].Input
		in.Namespace = cmp.Or(in.Namespace, f.Defaults.Namespace)
		in.Caller = cmp.Or(in.Caller, f.Defaults.Caller)
	}
	return nil
}

// ParseQuestions reads payloads to decide about: one input as policies see it, or the cases of a case file;
// JSON or YAML.
func ParseQuestions(text []byte) ([]Case, error) {
	var top map[string]any
	var f caseFile
	err := yaml.Unmarshal(text, &top)
	if _, several := top["cases"]; err == nil && several {
		err = f.parse(text)
	} else if err == nil {
		f.Cases = make([]Case, 1)
		err = yaml.UnmarshalWithOptions(text, &f.Cases[0].Input, yaml.Strict())
	}
	if err != nil {
		problem, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
		return nil, errors.New(problem)
	}
	return f.Cases, nil
}

// try returns why the verdict for a case is not the expected one, or nil.
func (c *Case) try(ctx context.Context, p *Policy) error {
	d, in, err := p.Question(c)
	if err != nil {
		return err
	}
	v, err := p.Decide(ctx, d, in)
	if c.Want.Error != "" {
		if err == nil {
			return fmt.Errorf("wanted an error with %q, got %s", c.Want.Error, v)
		}
		if !strings.Contains(err.Error(), c.Want.Error) {
			return fmt.Errorf("wanted an error with %q, got: %w", c.Want.Error, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.Want.compare(p.within(v, in)); err != nil {
		return fmt.Errorf("%w%s", err, c.withContent(d, v))
	}
	return nil
}

// withContent returns what to add to a case whose verdict is due to a rule that reads content, which the case does not have.
func (c *Case) withContent(d Direction, v Verdict) string {
	if d != Request || c.Input.Content != nil || v.untold&readContent == 0 || v.Action != Deny && !v.Weakened {
		return ""
	}
	return "; the case has no content: add to its input `content: {json: ...}` with a document"
}

// within returns a verdict as it turns out for a document: if it lacks its subject, or cannot be masked, it is refused; if it has
// nothing to mask, it is only sealed; and if it lacks a field, the whole payload is sealed.
func (p *Policy) within(v Verdict, in *Input) Verdict {
	document := in.Data
	if m := v.Masked; m != nil && p.mask != nil {
		var why string
		masked := 1
		switch {
		case in.External:
			why = ExternalUnmasked
		case len(in.Data) > 0, in.Encoding != "" && !strings.HasPrefix(in.Encoding, "json/"): // not so: the case leaves the document out
			document, masked, why = p.mask(in.Encoding, in.Data, m.Fields, m.Optional)
		}
		if why != "" {
			return Verdict{Action: Deny, Reason: "a rule masks members of this payload, and it cannot be masked: " + why, Hit: v.Hit, Weakened: v.Weakened}
		}
		if masked == 0 {
			v.Action, v.Masked = Seal, nil
		}
	}
	if p.missingOf != nil && v.Subject.Pointer != "" && len(in.Data) > 0 {
		if why := p.missingOf(in.Encoding, in.Data, v.Subject); why != "" {
			return Verdict{Action: Deny, Reason: v.Subject.Missing(why), Hit: v.Hit, Weakened: v.Weakened}
		}
	}
	if p.unmatched == nil || len(v.Fields) == 0 || len(document) == 0 {
		return v
	}
	if v.Unmatched = p.unmatched(in.Encoding, document, v.Fields, v.MayMiss()); v.Unmatched != "" {
		v.Whole()
	}
	return v
}

func (w caseWant) compare(v Verdict) error {
	if w.Action == "" {
		return errors.New("`want` needs an `action` or an `error`")
	}
	if w.Action != v.Action.String() ||
		(w.Key != "" && w.Key != v.Key) ||
		(w.Reason != "" && w.Reason != v.Reason) ||
		(w.Fields != nil && !slices.Equal(w.Fields, v.Fields)) ||
		(w.Optional != nil && !slices.Equal(w.Optional, v.optional())) ||
		(w.Masked != nil && !slices.Equal(w.Masked, v.masked().Fields)) ||
		(w.Clear != nil && !slices.Equal(w.Clear, v.Clear)) ||
		(w.Compress != nil && *w.Compress != v.Compress) ||
		(w.Weakened != nil && *w.Weakened != v.Weakened) ||
		(w.Subject != nil && Subject(*w.Subject) != v.Subject) ||
		(w.Unmatched != nil && *w.Unmatched != (v.Unmatched != "")) {
		return fmt.Errorf("wanted %s, got %s", w, v)
	}
	return nil
}

func (w caseWant) String() string {
	v := Verdict{Key: w.Key, Fields: w.Fields, Optional: w.Optional, Clear: w.Clear, Reason: w.Reason}
	v.Compress = w.Compress != nil && *w.Compress
	v.Weakened = w.Weakened != nil && *w.Weakened
	if w.Masked != nil {
		v.Masked = &Masking{Fields: w.Masked}
	}
	if w.Subject != nil {
		v.Subject = Subject(*w.Subject)
	}
	if w.Unmatched != nil && *w.Unmatched {
		v.Unmatched = "the document lacks a field"
	}
	return v.describe(w.Action)
}

// String describes a verdict in a line.
func (v Verdict) String() string { return v.describe(v.Action.String()) }

func (v Verdict) describe(action string) string {
	s := action
	if v.Key != "" {
		s += " with key " + v.Key
	}
	if v.Subject.Named() {
		s += " for the subject at " + v.Subject.String()
	}
	if v.Subject.Default != "" {
		s += " (without one: for " + v.Subject.Default + ")"
	}
	if v.Masked != nil {
		s += " masking " + strings.Join(v.Masked.Fields, " ")
	}
	if v.Fields != nil {
		s += " fields " + strings.Join(v.Fields, " ")
	}
	if there := v.optional(); there != nil {
		s += " (if there: " + strings.Join(there, " ") + ")"
	}
	if v.Clear != nil {
		s += " all but " + strings.Join(v.Clear, " ")
	}
	if v.Compress {
		s += " compressed"
	}
	if v.Reason != "" {
		s += ": " + v.Reason
	}
	if v.Unmatched != "" {
		s += " (the whole payload: " + v.Unmatched + ")"
	}
	if v.Weakened {
		s += " (a pass was not honored: a rule reads a fact that this request does not contain)"
	}
	return s
}

// Question returns the input that the proxy itself would evaluate for a case. Its content is JSON of encoding json/plain
// unless the case says otherwise. Names that no call has are an error.
func (p *Policy) Question(c *Case) (d Direction, in *Input, err error) {
	switch c.Direction {
	case "", "request":
	case "response":
		d = Response
	default:
		return d, nil, fmt.Errorf("unknown direction %q; it is request or response", c.Direction)
	}
	given := c.Input.Payload
	in = &Input{
		Namespace: c.Input.Namespace, RPC: c.Input.RPC,
		Kind: given.Kind, Name: given.Name, Path: given.Path, Encoding: given.Encoding, Type: given.Type, External: given.External,
		Sealed: Sealed{Namespace: c.Input.Sealed.Namespace, Key: c.Input.Sealed.Key, Granted: c.Input.Sealed.Granted},
	}
	if in.Kind == "" {
		return d, nil, errors.New("the case needs `input.payload.kind`")
	}
	if caller := c.Input.Caller; caller != nil {
		in.Caller = NewCaller(caller.Kind, caller.Subject, caller.Listener, caller.Claims)
	}
	if err := p.names.checkInput(in); err != nil {
		return d, nil, err
	}
	if err := c.setFacts(in); err != nil {
		return d, nil, err
	}
	return d, in, c.setContent(in)
}

// setContent sets the data of an input, and its encoding where the case leaves it out. A text has no encoding: its data is the
// text itself.
func (c *Case) setContent(in *Input) (err error) {
	text := readable(in.Kind)
	if text {
		in.Encoding = ""
	}
	content := c.Input.Content
	if content == nil {
		return nil
	}
	if in.Data = []byte(content.Raw); content.Raw == "" && text {
		s, ok := content.JSON.(string)
		if !ok && content.JSON != nil {
			return fmt.Errorf("`content.json` has to be a string for payload.kind %q", in.Kind)
		}
		in.Data = []byte(s)
		return nil
	}
	if !text {
		in.Encoding = cmp.Or(in.Encoding, "json/plain")
	}
	if content.Raw == "" {
		if in.Data, err = json.Marshal(content.JSON); err != nil {
			return fmt.Errorf("`content.json` is not a JSON value: %w", err)
		}
	}
	return nil
}

// setFacts sets the facts of an input. A fact that the case neither gives nor calls unknown does not apply,
// so a case is about a call that says all there is to say, unless it says otherwise.
func (c *Case) setFacts(in *Input) error {
	given := map[string]string{}
	for k, v := range c.Input.Workflow {
		given["workflow."+k] = v
	}
	for k, v := range c.Input.Activity {
		given["activity."+k] = v
	}
	unknown := slices.Clone(c.Unknown)
	for _, m := range members {
		if m.read&AllFacts == 0 {
			continue
		}
		value, ok := given[m.path]
		delete(given, m.path)
		switch i := slices.Index(unknown, m.path); {
		case ok:
			in.Known |= m.read
			*m.text(in) = value
		case i >= 0:
			unknown = slices.Delete(unknown, i, i+1)
		default:
			in.NotApplicable |= m.read
		}
	}
	for name := range given {
		unknown = append(unknown, name)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%s is not a fact, or is both given and unknown; the facts are %s",
			unknown[0], strings.Join(AllFacts.Names(), ", "))
	}
	return nil
}

// policy returns the policy with the file's keys, the most sensitive first. The default key is the one
// named "default", or else the last. A policy that was loaded by a configuration, or a file without keys,
// keeps the policy's own.
func (f *caseFile) policy(p *Policy, configured bool) *Policy {
	if configured || len(f.Keys) == 0 {
		return p
	}
	fallback := f.Keys[len(f.Keys)-1]
	if slices.Contains(f.Keys, "default") {
		fallback = "default"
	}
	rank := func(_, key string) (int, bool) {
		i := slices.IndexFunc(f.Keys, func(pattern string) bool {
			ok, err := path.Match(pattern, key)
			return err == nil && ok
		})
		return i, i >= 0
	}
	other := *p
	other.keys = keys{rank, func(string) (string, bool) { return fallback, true }}
	other.cache = newCache(1 << 10)
	return &other
}
