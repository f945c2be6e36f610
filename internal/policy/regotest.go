package policy

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/tester"
)

// runTests runs the Rego tests that belong to the policies by OPA's own runner, as `opa test` would: the
// platform's beside its file, the namespaces' in their folder.
func (r *Report) runTests(ctx context.Context, opts Options, files Sources) {
	var names []string
	if opts.Namespaces != "" {
		var err error
		if names, err = filepath.Glob(filepath.Join(opts.Namespaces, "*"+testSuffix)); err != nil {
			r.add(Fault, "", "cannot look for tests: %v", err)
			return
		}
	}
	if opts.File != "" {
		name := strings.TrimSuffix(opts.File, regoSuffix) + testSuffix
		if _, err := os.Stat(name); err == nil {
			names = slices.Insert(names, 0, name)
		}
	}
	modules := files.modules()
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			r.add(Fault, name, "cannot read the test: %v", err)
			continue
		}
		m, err := parseModule(name, text)
		if err != nil {
			r.addErrors(sourceError(err))
			continue
		}
		modules[name] = m
	}
	results, err := tester.NewRunner().SetCompiler(newCompiler(capabilities)).Run(ctx, modules)
	if err != nil {
		r.addErrors(sourceError(err))
		return
	}
	for result := range results {
		r.Tests++
		where := location(result.Location)
		switch {
		case result.Error != nil:
			r.add(Fault, where, "test %s broke off: %v", result.Name, result.Error)
		case result.Fail:
			r.add(Fault, where, "test %s fails", result.Name)
		case result.Skip:
			r.add(Note, where, "test %s is skipped", result.Name)
		}
	}
}
