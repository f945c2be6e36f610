package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// explainOptions are the flags of explain.
type explainOptions struct {
	flags config.Flags
	// The payload, if there is no input.
	question questionFlags
	// Path of a file with questions; "-": standard input.
	input  string
	output outputFormat
	// Print every rule, also for several payloads.
	verbose bool
	// Print OPA's own trace below each answer.
	trace bool
}

// explainCommand is for the authors of a policy: it evaluates the policy for payloads that they describe, and
// prints what every rule contributed.
func explainCommand() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Show what the policy decides about a payload, and why",
		Long: `explain asks the policy about a payload as the proxy would, and shows what each rule said, what they come to
together and which verdict wins. The payload is described by flags, or by a file with an input document as rules see it
or with several cases. No key is used and nothing is sent anywhere. The exit code is 1 if an evaluation ends in an error.`,
		Example: `  temporal-seal explain --policy policy.rego --kind header --name authorization
  temporal-seal explain --config config.yaml --namespace clinic-prod --activity-type FetchLabResults --kind result
  temporal-seal explain --config examples/clinic/config.yaml --input examples/clinic/cases.yaml`,
		Args: cobra.NoArgs,
		RunE: o.explain,
	}
	addFlags(&o.flags, cmd)
	o.question.add(cmd)
	cmd.Flags().StringVar(&o.input, "input", "",
		"file with an input document or with cases, JSON or YAML; - for standard input")
	o.output.flag(cmd)
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "for several payloads too, show each rule")
	cmd.Flags().BoolVar(&o.trace, "trace", false, "show each step of the evaluation, as OPA prints it")
	return cmd
}

// answered is a question with the decision of the policy.
type answered struct {
	// The question's name, or else its place in the input.
	title       string
	question    policy.Case
	explanation policy.Explanation
	// Of the evaluation: the proxy would refuse the call.
	err error
	// The steps of the evaluation, with --trace.
	trace []string
}

// explain evaluates the policy for each question and prints the answers: in full for a single one, as a
// table for several.
func (o *explainOptions) explain(cmd *cobra.Command, _ []string) error {
	ctx, stdout := cmd.Context(), cmd.OutOrStdout()
	questions, err := o.questions()
	if err != nil {
		return err
	}
	p, err := o.policyAlone(ctx)
	if err != nil {
		return err
	}
	answers := make([]answered, len(questions))
	for i, q := range questions {
		a := &answers[i]
		a.title, a.question = cmp.Or(q.Name, fmt.Sprintf("payload %d", i+1)), q
		// A question that cannot be asked ends the command, since it is a mistake in the input. An error of
		// the policy is an answer.
		direction, in, err := p.Question(&q)
		if err != nil {
			return fmt.Errorf("%s: %w", a.title, err)
		}
		if a.explanation, a.err = p.Explain(ctx, direction, in); a.err == nil && o.trace {
			a.trace, a.err = policy.Trace(ctx, p, direction, in)
		}
	}
	failed := slices.ContainsFunc(answers, func(a answered) bool { return a.err != nil })
	if o.output.json() {
		err = explainJSON(stdout, answers)
	} else {
		err = o.explainText(stdout, answers)
	}
	if err == nil && failed {
		err = exitCode(1)
	}
	return err
}

// questions reads the payloads of --input, or the one that the flags describe.
func (o *explainOptions) questions() ([]policy.Case, error) {
	if o.input == "" {
		q, err := o.question.question()
		return []policy.Case{q}, err
	}
	questions, err := readQuestions(o.input)
	if err != nil {
		return nil, fmt.Errorf("--input: %w", err)
	}
	return questions, nil
}

// explainText prints the answers for people.
func (o *explainOptions) explainText(stdout io.Writer, answers []answered) error {
	// A trace belongs to the rules that it explains, so it needs the long form too.
	s := newStyle(stdout)
	if len(answers) == 1 || o.verbose || o.trace {
		for _, a := range answers {
			a.print(s)
			if o.trace {
				for _, step := range a.trace {
					s.line("  %s", s.dim(step))
				}
				s.line("")
			}
		}
	}
	if len(answers) > 1 {
		printTable(s, answers)
	}
	return s.err
}

// policyAlone loads the policy with the configured keys' names and ranks, without the keys: whoever writes
// policies need not have access to them.
func (o *explainOptions) policyAlone(ctx context.Context) (*policy.Policy, error) {
	c, err := o.flags.Load()
	if err != nil {
		return nil, err
	}
	return policyWithoutKeys(ctx, c)
}

// policyWithoutKeys loads the policy of a config without its keys.
func policyWithoutKeys(ctx context.Context, c *config.Config) (*policy.Policy, error) {
	// The keyring answers which key name outranks which; every URI gets a stand-in.
	open := func(_ context.Context, uri string) (crypto.Provider, error) { return standIn(uri), nil }
	keys, err := app.OpenAllKeys(ctx, c, app.KeyOptions{Timeout: defaultStartTimeout, Open: open, Log: quiet})
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	return app.LoadPolicy(ctx, c, keys)
}

// standIn takes a key's place where only its name counts.
type standIn string

// Ref differs from those of real keys, whose references are made from a provider and its key.
func (s standIn) Ref() crypto.KEKRef { return crypto.NewKEKRef("stand-in", string(s)) }

// URI is the one in the config, so that errors name the entry.
func (s standIn) URI() string { return string(s) }

// GenerateDataKey returns a random key of 32 bytes, the length for AES-256. It is its own wrapped form, since
// nothing is ever sealed with it.
func (s standIn) GenerateDataKey(context.Context, crypto.KeyContext) (plain, wrapped []byte, err error) {
	plain = make([]byte, 32)
	rand.Read(plain)
	return plain, slices.Clone(plain), nil
}

// UnwrapDataKey undoes GenerateDataKey.
func (s standIn) UnwrapDataKey(_ context.Context, wrapped []byte, _ crypto.KeyContext) ([]byte, error) {
	return slices.Clone(wrapped), nil
}

// about describes a payload in one line.
func about(q *policy.Case) string {
	in := &q.Input
	parts := []string{in.RPC, in.Namespace}
	for _, part := range []struct{ label, value string }{
		{"workflow ", in.Workflow["type"]},
		{"activity ", in.Activity["type"]},
		{"", strings.TrimSuffix(in.Payload.Kind+" "+in.Payload.Name, " ")},
		{"", in.Payload.Encoding},
		{"sealed with ", in.Sealed.Key},
	} {
		if part.value != "" {
			parts = append(parts, part.label+part.value)
		}
	}
	return strings.Join(parts, "  ")
}

// print shows one decision: every rule with its verdicts, and the verdict that wins. A rule without
// verdicts does not hold for the payload.
func (a *answered) print(s *style) {
	s.line("%s", s.bold(a.title))
	s.line("  %s", s.dim(about(&a.question)))
	for _, p := range a.explanation.Packages {
		s.line("")
		s.line("  %s  %s", s.bold(p.Package), s.dim(p.File))
		for _, r := range p.Rules {
			s.line("    %-12s %s", lineOf(r.Location), s.dim(oneLine(r.Text)))
			if len(r.Verdicts) == 0 {
				s.line("    %-12s %s", "", s.dim("does not hold"))
			}
			for _, v := range r.Verdicts {
				s.line("    %-12s %s", "", s.verdict(v))
			}
		}
		if len(p.Rules) == 0 {
			s.line("    %s", s.dim("has no rule for this direction"))
		}
	}
	s.line("")
	if a.err != nil {
		s.line("  %s  %s\n  %s\n", s.bold("error  "), s.red(a.err.Error()), s.dim("nothing would be forwarded"))
		return
	}
	e := &a.explanation
	s.line("  %s  %s", s.bold("verdict"), s.bold(s.verdict(e.Verdict.String())))
	// Unsure are the facts that a request does not contain. What a rule would let pass because of one
	// is sealed.
	if len(e.Unsure) > 0 {
		s.line("  %s  %s", s.dim("unknown"), strings.Join(e.Unsure, ", ")+s.dim(": a pass over it becomes seal"))
	}
	for _, note := range e.Notes {
		s.line("  %s  %s", s.dim("note   "), s.dim(note))
	}
	cached := "kept"
	if !e.Cached {
		cached = "evaluated again for each payload, since the content matters"
	} else if len(e.CacheKey) > 0 {
		cached = "kept for payloads alike in " + strings.Join(e.CacheKey, ", ")
	}
	s.line("  %s  %s\n", s.dim("cache  "), s.dim(cached))
}

// oneLine writes the lines of a rule behind each other, in 100 characters at most.
func oneLine(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	line := []rune(strings.NewReplacer("{; ", "{ ", "; }", " }").Replace(strings.Join(lines, "; ")))
	if len(line) > 100 {
		line = append(line[:97], []rune("...")...)
	}
	return string(line)
}

// lineOf shortens file:line to the line: the file stands above.
func lineOf(location string) string {
	if i := strings.LastIndexByte(location, ':'); i >= 0 {
		return "line " + location[i+1:]
	}
	return location
}

// printTable prints a line for each decision. The names are padded by characters, not by bytes.
func printTable(s *style, answers []answered) {
	width := 0
	for _, a := range answers {
		width = max(width, utf8.RuneCountInString(a.title))
	}
	for _, a := range answers {
		decision := s.verdict(a.explanation.Verdict.String())
		if a.err != nil {
			decision = s.red("error: " + a.err.Error())
		}
		s.line("%-*s  %s", width, a.title, decision)
	}
	s.line("%s", s.dim("policy revision "+answers[0].explanation.Revision))
}

// explainJSON prints one element for each question. The names of the fields are part of the command's
// interface: `cached` means that the policy cache keeps the decision.
func explainJSON(w io.Writer, answers []answered) error {
	// An error of the evaluation takes the place of action, key and verdict.
	type decision struct {
		Name     string                      `json:"name"`
		Revision string                      `json:"policy_revision"`
		Packages []policy.PackageExplanation `json:"packages"`
		Action   string                      `json:"action,omitempty"`
		Key      string                      `json:"key,omitempty"`
		Verdict  string                      `json:"verdict,omitempty"`
		Cached   bool                        `json:"cached"`
		Unknown  []string                    `json:"unknown,omitempty"`
		Notes    []string                    `json:"notes,omitempty"`
		Error    string                      `json:"error,omitempty"`
	}
	out := make([]decision, len(answers))
	for i, a := range answers {
		e := &a.explanation
		out[i] = decision{Name: a.title, Revision: e.Revision, Packages: e.Packages,
			Cached: e.Cached, Unknown: e.Unsure, Notes: e.Notes}
		if a.err != nil {
			out[i].Error = a.err.Error()
			continue
		}
		out[i].Action, out[i].Key, out[i].Verdict = e.Verdict.Action.String(), e.Verdict.Key, e.Verdict.String()
	}
	return writeJSON(w, out)
}
