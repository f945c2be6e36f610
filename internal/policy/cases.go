package policy

import (
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

// caseFile holds inputs and the final verdicts wanted for them. Tests in Rego see the
// set of one package; only a case sees what all packages together come to.
type caseFile struct {
	Keys     []string     `yaml:"keys"` // the most sensitive first, as in the configuration
	Defaults caseDefaults `yaml:"defaults"`
	Cases    []policyCase `yaml:"cases"`
}

type caseDefaults struct {
	Namespace string      `yaml:"namespace"`
	Caller    *caseCaller `yaml:"caller"`
}

type policyCase struct {
	Name      string    `yaml:"name"`
	Direction string    `yaml:"direction"` // request unless said otherwise
	Input     caseInput `yaml:"input"`
	Unknown   []string  `yaml:"unknown"` // facts that the request does not tell; those not given do not apply
	Want      caseWant  `yaml:"want"`
}

type caseInput struct {
	Namespace string            `yaml:"namespace"`
	RPC       string            `yaml:"rpc"`
	Caller    *caseCaller       `yaml:"caller"`
	Workflow  map[string]string `yaml:"workflow"`
	Activity  map[string]string `yaml:"activity"`
	Payload   casePayload       `yaml:"payload"`
	Content   *caseContent      `yaml:"content"`
	Sealed    caseSealed        `yaml:"sealed"`
}

type caseCaller struct {
	Kind     string         `yaml:"kind"`
	Subject  string         `yaml:"subject"`
	Listener string         `yaml:"listener"`
	Claims   map[string]any `yaml:"claims"`
}

type casePayload struct {
	Kind     string `yaml:"kind"`
	Name     string `yaml:"name"`
	Path     string `yaml:"path"`
	Encoding string `yaml:"encoding"`
	Type     string `yaml:"type"`
}

type caseContent struct {
	JSON any    `yaml:"json"`
	Raw  string `yaml:"raw"` // the payload's bytes as they are, instead of json
}

type caseSealed struct {
	Namespace string `yaml:"namespace"`
	Key       string `yaml:"key"`
}

// caseWant is compared member by member; what is not written is not compared.
type caseWant struct {
	Action   string   `yaml:"action"`
	Key      string   `yaml:"key"`
	Fields   []string `yaml:"fields"`
	Clear    []string `yaml:"clear"`
	Compress *bool    `yaml:"compress"`
	Reason   string   `yaml:"reason"`
	Weakened *bool    `yaml:"weakened"`
	Error    string   `yaml:"error"` // part of the error's text, instead of a verdict
}

// CaseResult is the outcome of one case.
type CaseResult struct {
	File, Name string
	Problem    string // "" where the decision is the one wanted
}

func readCases(name string) (caseFile, error) {
	var f caseFile
	text, err := os.ReadFile(name)
	if err != nil {
		return f, fmt.Errorf("cannot read the cases: %w", err)
	}
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		return f, fmt.Errorf("%s: %s", name, yaml.FormatError(err, false, false))
	}
	if len(f.Cases) == 0 {
		return f, fmt.Errorf("%s: there are no `cases`", name)
	}
	return f, nil
}

// run decides every case. Where the policy was loaded without the configured keys,
// those that the file lists stand in for them.
func (f caseFile) run(ctx context.Context, p *Policy, file string, configured bool) []CaseResult {
	if !configured && len(f.Keys) > 0 {
		p = p.withKeys(f.keyTable())
	}
	var out []CaseResult
	for i, c := range f.Cases {
		r := CaseResult{File: file, Name: c.Name}
		if r.Name == "" {
			r.Name = fmt.Sprintf("case %d", i+1)
		}
		if err := f.try(ctx, p, c); err != nil {
			r.Problem = err.Error()
		}
		out = append(out, r)
	}
	return out
}

func (f caseFile) try(ctx context.Context, p *Policy, c policyCase) error {
	in, err := c.input(f.Defaults)
	if err != nil {
		return err
	}
	d := Request
	switch c.Direction {
	case "", "request":
	case "response":
		d = Response
	default:
		return fmt.Errorf("unknown direction %q; it is request or response", c.Direction)
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
	return c.Want.compare(v)
}

func (w caseWant) compare(v Verdict) error {
	if w.Action == "" {
		return errors.New("`want` needs an `action` or an `error`")
	}
	if w.Action != v.Action.String() ||
		(w.Key != "" && w.Key != v.Key) ||
		(w.Reason != "" && w.Reason != v.Reason) ||
		(w.Fields != nil && !slices.Equal(w.Fields, v.Fields)) ||
		(w.Clear != nil && !slices.Equal(w.Clear, v.Clear)) ||
		(w.Compress != nil && *w.Compress != v.Compress) ||
		(w.Weakened != nil && *w.Weakened != v.Weakened) {
		return fmt.Errorf("wanted %s, got %s", w, v)
	}
	return nil
}

func (w caseWant) String() string {
	v := Verdict{Key: w.Key, Fields: w.Fields, Clear: w.Clear, Reason: w.Reason}
	v.Compress = w.Compress != nil && *w.Compress
	v.Weakened = w.Weakened != nil && *w.Weakened
	return v.describe(w.Action)
}

// String tells a verdict in a line.
func (v Verdict) String() string { return v.describe(v.Action.String()) }

func (v Verdict) describe(action string) string {
	s := action
	if v.Key != "" {
		s += " with key " + v.Key
	}
	if v.Fields != nil {
		s += " fields " + strings.Join(v.Fields, " ")
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
	if v.Weakened {
		s += " (a pass was not honoured: a rule asked for what this request does not tell)"
	}
	return s
}

// input builds what the proxy would hand in.
func (c policyCase) input(def caseDefaults) (*Input, error) {
	in := &Input{
		Namespace: c.Input.Namespace, RPC: c.Input.RPC,
		Kind: c.Input.Payload.Kind, Name: c.Input.Payload.Name, Path: c.Input.Payload.Path,
		Encoding: c.Input.Payload.Encoding, Type: c.Input.Payload.Type,
		SealedNamespace: c.Input.Sealed.Namespace, SealedKey: c.Input.Sealed.Key,
	}
	if in.Namespace == "" {
		in.Namespace = def.Namespace
	}
	if in.Kind == "" {
		return nil, errors.New("the case needs `input.payload.kind`")
	}
	if !slices.Contains(Kinds(), in.Kind) {
		return nil, fmt.Errorf("`input.payload.kind`: %q is none of %s", in.Kind, strings.Join(Kinds(), ", "))
	}
	caller := c.Input.Caller
	if caller == nil {
		caller = def.Caller
	}
	if caller != nil {
		in.Caller = NewCaller(caller.Kind, caller.Subject, caller.Listener, caller.Claims)
	}
	if err := c.setFacts(in); err != nil {
		return nil, err
	}
	if content := c.Input.Content; content != nil {
		in.Data = []byte(content.Raw)
		if content.Raw == "" {
			data, err := json.Marshal(content.JSON)
			if err != nil {
				return nil, fmt.Errorf("`content.json` is no JSON value: %w", err)
			}
			in.Data = data
		}
		if in.Encoding == "" {
			in.Encoding = "json/plain"
		}
	}
	return in, nil
}

func (c policyCase) setFacts(in *Input) error {
	given := map[string]string{}
	for k, v := range c.Input.Workflow {
		given["workflow."+k] = v
	}
	for k, v := range c.Input.Activity {
		given["activity."+k] = v
	}
	unknown := slices.Clone(c.Unknown)
	for _, row := range factTable {
		value, ok := given[row.name]
		delete(given, row.name)
		switch i := slices.Index(unknown, row.name); {
		case ok:
			in.Known |= row.fact
			*row.field(in) = value
		case i >= 0:
			unknown = slices.Delete(unknown, i, i+1)
		default:
			in.NotApplicable |= row.fact
		}
	}
	for name := range given {
		unknown = append(unknown, name)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%s is no fact, or is both given and unknown; the facts are %s", unknown[0], strings.Join(AllFacts.Names(), ", "))
	}
	return nil
}

// keyTable ranks keys by their order. The default is the one of that name, else the last.
func (f caseFile) keyTable() (KeyRank, DefaultKey) {
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
	return rank, func(string) (string, bool) { return fallback, true }
}
