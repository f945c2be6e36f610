package detect

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
)

// rule is one rule of a file.
type rule struct {
	finding Finding
	pattern *regexp.Regexp  // nil: it has none
	names   map[string]bool // of members, as split and joined
}

// ruleFile is the form of a file with rules.
type ruleFile struct {
	Rules []struct {
		What      string    // required: what reports call it
		Pattern   string    // regular expression (RE2) that a text matches
		Names     []string  // of members
		Certainty Certainty // default: likely, or by name for a rule without a pattern
	}
}

// ReadRules returns a detector with the built-in detectors and the rules of a file in YAML.
func ReadRules(file string) (*Detector, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the rules cannot be read: %w", err)
	}
	var f ruleFile
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %s", file, yaml.FormatError(err, false, false))
	}
	d := new(Detector)
	for i, r := range f.Rules {
		out := rule{finding: Finding{r.What, r.Certainty}, names: map[string]bool{}}
		err := out.complete(r.Pattern, r.Names)
		if err != nil {
			return nil, fmt.Errorf("%s: rules[%d]: %w", file, i, err)
		}
		d.rules = append(d.rules, out)
	}
	return d, nil
}

// complete checks a rule and fills it in.
func (r *rule) complete(pattern string, names []string) (err error) {
	switch {
	case r.finding.What == "":
		return errors.New("`what` is required: reports call the finding so")
	case pattern == "" && len(names) == 0:
		return errors.New("`pattern` or `names` is required")
	case r.finding.Certainty != "" && r.finding.Certainty.Rank() == 0:
		return fmt.Errorf("certainty: %q is not one of certain, likely, by name, possible", r.finding.Certainty)
	}
	if pattern != "" {
		if r.pattern, err = regexp.Compile(pattern); err != nil {
			return fmt.Errorf("pattern: %w", err)
		}
	}
	for _, name := range names {
		r.names[strings.Join(split(name), "")] = true
	}
	if r.finding.Certainty == "" {
		if r.finding.Certainty = Likely; pattern == "" {
			r.finding.Certainty = ByName
		}
	}
	return nil
}
