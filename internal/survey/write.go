package survey

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// minSearched is how many payloads of a place have to be searched before a policy leaves anything of them readable: where nothing
// was found in so many, at most 4 % hold something (with a confidence of 95 %).
const minSearched = 100

// ruledKinds are the kinds of which a policy from findings may leave something readable. The others stay sealed whole: texts of
// failures are free text, headers carry credentials, and requests with signals do not tell the type of their workflow.
var ruledKinds = []string{policy.KindInput, policy.KindResult, policy.KindMemo, policy.KindHeartbeat}

// ruling is what a policy from findings does at a place.
type ruling struct {
	at       Place
	searched int
	fields   []string // JSON pointers to seal; nil: nothing was found
	optional []string // of these, those that some documents lack
	whole    bool     // sealed whole
	comments []string
	left     Leaves // what stays readable beside the fields
}

// WritePolicy writes a policy from the findings into a new folder: for each namespace a file in Rego, and cases for it. It returns
// how many rules there are. Whatever was not searched, or not enough, stays sealed by default.
func (s *Survey) WritePolicy(folder string) (rules int, err error) {
	if entries, err := os.ReadDir(folder); err == nil && len(entries) > 0 {
		return 0, fmt.Errorf("the folder %s is not empty: name a new one", folder)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return 0, err
	}
	byNamespace := map[string][]ruling{}
	for _, stratum := range s.table.Strata {
		if r, ruled := stratum.ruling(); ruled {
			byNamespace[r.at.Namespace] = append(byNamespace[r.at.Namespace], r)
		}
	}
	for namespace, all := range byNamespace {
		if namespace == "" || namespace != filepath.Base(namespace) || strings.HasPrefix(namespace, ".") {
			return rules, fmt.Errorf("namespace %q has a name that no file can have", namespace)
		}
		slices.SortFunc(all, func(a, b ruling) int { return a.at.compare(&b.at) })
		text, n := rego(namespace, all)
		rules += n
		if err := os.WriteFile(filepath.Join(folder, namespace+".rego"), []byte(text), 0o644); err != nil {
			return rules, err
		}
		if err := os.WriteFile(filepath.Join(folder, namespace+"_cases.yaml"), []byte(cases(namespace, all)), 0o644); err != nil {
			return rules, err
		}
	}
	return rules, nil
}

// ruling returns what a policy does at the place of a stratum, if it needs a rule.
func (s *Stratum) ruling() (r ruling, ruled bool) {
	r = ruling{at: s.At, searched: s.Searched, whole: s.Searched < minSearched}
	known := s.At.WorkflowType != "" && s.At.WorkflowType != Hidden && s.At.ActivityType != Hidden && s.At.Name != Hidden
	if !known || !slices.Contains(ruledKinds, s.At.Kind) {
		return r, false
	}
	r.add(s.Root, "")
	if slices.Contains(r.fields, "") {
		r.whole = true
	}
	slices.Sort(r.fields)
	var least []string
	for _, pointer := range slices.Compact(r.fields) {
		if n := len(least); n == 0 || !within(pointer, least) {
			least = append(least, pointer)
		}
	}
	r.fields = least
	for _, pointer := range least {
		if !s.everywhere(pointer) {
			r.optional = append(r.optional, pointer)
		}
	}
	if !r.whole && len(r.fields) > 0 {
		r.left.besides(s.Root, "", r.fields)
	}
	return r, len(r.fields) > 0 || !r.whole
}

// everywhere reports whether all payloads that were searched have a value at a pointer.
func (s *Stratum) everywhere(pointer string) bool {
	n := s.Root
	for _, step := range strings.Split(pointer, "/")[1:] {
		if n = n.Members[strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")]; n == nil || n.Count < s.Searched {
			return false // elements of arrays are no members: an array may be empty
		}
	}
	return true
}

// within reports whether a pointer leads into what one of others points to.
func within(pointer string, others []string) bool {
	return slices.ContainsFunc(others, func(o string) bool { return strings.HasPrefix(pointer, o+"/") })
}

// add adds the findings of a node and of those below it. Where a member's name is data, its whole object is sealed.
func (r *ruling) add(n *Node, pointer string) {
	for _, f := range n.Findings {
		at, where := pointer, ""
		if f.InName {
			at, where = pointer[:strings.LastIndexByte(pointer, '/')], " in a member's name"
		}
		if before, _, found := strings.Cut(at, "/"+Hidden); found {
			at = before
		}
		r.fields = append(r.fields, at)
		r.comments = append(r.comments, fmt.Sprintf("%s: %s%s (%s), %d of %d", cmp.Or(at, "the whole"), f.What, where, f.Certainty, f.Count, r.searched))
	}
	for _, name := range slices.Sorted(maps.Keys(n.Members)) {
		r.add(n.Members[name], pointer+"/"+escape(name))
	}
	if n.Any != nil {
		r.add(n.Any, pointer+"/"+Hidden)
	}
	if n.Elements != nil {
		r.add(n.Elements, pointer+"/*")
	}
}

// quote writes a text as Rego and YAML read it.
func quote(text string) string {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err) // never for a text
	}
	return string(raw)
}

// quoteAll writes a list of texts.
func quoteAll(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = quote(text)
	}
	return strings.Join(quoted, ", ")
}

// verdicts returns what the rules for a place say.
func (r *ruling) verdicts() (all []string) {
	switch {
	case r.whole:
		return []string{`{"action": "seal"}`}
	case len(r.fields) == 0:
		return []string{`{"action": "pass"}`}
	}
	always := slices.DeleteFunc(slices.Clone(r.fields), func(f string) bool { return slices.Contains(r.optional, f) })
	if len(always) > 0 {
		all = append(all, fmt.Sprintf(`{"action": "seal", "fields": [%s]}`, quoteAll(always)))
	}
	if len(r.optional) > 0 {
		all = append(all, fmt.Sprintf(`{"action": "seal", "fields": [%s], "missing": "pass"}`, quoteAll(r.optional)))
	}
	return all
}

// rego writes the policy of a namespace, and returns how many rules it has.
func rego(namespace string, all []ruling) (text string, rules int) {
	var b strings.Builder
	fmt.Fprintf(&b, `# From a survey. What no rule names is sealed whole with the default key: kinds other than %s,
# new types, and places of which fewer than %d payloads were searched. Names of persons and free text have no form, so read what passes.
package temporal.namespaces[%s]
`, strings.Join(ruledKinds, ", "), minSearched, quote(namespace))
	b.WriteString("\n# Places with findings: these members are sealed, and the rest stays readable.\n")
	for _, r := range all {
		if len(r.fields) == 0 {
			continue
		}
		b.WriteString("\n")
		slices.Sort(r.comments)
		for _, comment := range slices.Compact(r.comments) {
			fmt.Fprintf(&b, "# %s\n", comment)
		}
		if r.whole && !slices.Contains(r.fields, "") {
			fmt.Fprintf(&b, "# Only %d payloads were searched, so all of them is sealed.\n", r.searched)
		}
		if len(r.left.Pointers) > 0 {
			fmt.Fprintf(&b, "# stays readable: %s\n", r.left.List())
		}
		for i, verdict := range r.verdicts() {
			if rules++; i > 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "request contains %s if {\n%s}\n", verdict, r.at.conditions())
		}
	}
	b.WriteString("\n# Places without findings: they stay readable.\n")
	for _, r := range all {
		if len(r.fields) == 0 {
			rules++
			fmt.Fprintf(&b, "\n# %d payloads were searched.\nrequest contains %s if {\n%s}\n", r.searched, r.verdicts()[0], r.at.conditions())
		}
	}
	return b.String(), rules
}

// conditions writes the lines of a rule that select a place.
func (p *Place) conditions() string {
	text := fmt.Sprintf("\tinput.payload.kind == %s\n", quote(p.Kind))
	if p.Name != "" {
		text += fmt.Sprintf("\tinput.payload.name == %s\n", quote(p.Name))
	}
	text += fmt.Sprintf("\tinput.workflow.type == %s\n", quote(p.WorkflowType))
	if p.ActivityType == "" {
		return text + "\tnot input.activity.type\n"
	}
	return text + fmt.Sprintf("\tinput.activity.type == %s\n", quote(p.ActivityType))
}

// cases writes a case for each rule.
func cases(namespace string, all []ruling) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# From a survey: one payload for each rule of %s.rego.\ndefaults: {namespace: %s}\ncases:\n", namespace, quote(namespace))
	for _, r := range all {
		rpc, activity := "StartWorkflowExecution", ""
		switch {
		case r.at.Kind == policy.KindResult && r.at.ActivityType != "":
			rpc = "RespondActivityTaskCompleted"
		case r.at.Kind == policy.KindHeartbeat:
			rpc = "RecordActivityTaskHeartbeat"
		case r.at.ActivityType != "" || r.at.Kind == policy.KindResult:
			rpc = "RespondWorkflowTaskCompleted"
		}
		if r.at.ActivityType != "" {
			activity = fmt.Sprintf(", activity: {id: \"1\", type: %s}", quote(r.at.ActivityType))
		}
		want := "{action: pass}"
		switch {
		case r.whole:
			want = "{action: seal}"
		case len(r.fields) > 0:
			want = fmt.Sprintf("{action: seal, fields: [%s], optional: [%s]}", quoteAll(r.fields), quoteAll(r.optional))
		}
		fmt.Fprintf(&b, "  - name: %s\n    input: {rpc: %s, workflow: {id: \"1\", type: %s}%s, payload: {kind: %s, name: %s, encoding: json/plain}}\n    want: %s\n",
			quote(r.at.String()), rpc, quote(r.at.WorkflowType), activity, r.at.Kind, quote(r.at.Name), want)
	}
	return b.String()
}
