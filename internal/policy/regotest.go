package policy

import (
	"context"
	"errors"
	"os"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"
)

// runTests runs the `_test.rego` files by OPA's own runner, as `opa test` would.
func (r *Report) runTests(ctx context.Context, opts Options, files Sources) {
	names, err := testFiles(opts)
	if err != nil {
		r.add(Fault, "", "cannot look for tests: %v", err)
		return
	}
	modules := map[string]*ast.Module{}
	for _, f := range files {
		modules[f.name] = f.module
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			r.add(Fault, name, "cannot read the test: %v", err)
			continue
		}
		m, err := parseModule(name, text)
		if err != nil {
			r.addErrors(err)
			continue
		}
		modules[name] = m
	}
	compiler := ast.NewCompiler().WithStrict(true).WithCapabilities(capabilities)
	results, err := tester.NewRunner().SetCompiler(compiler).Run(ctx, modules)
	if err != nil {
		r.addErrors(err)
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

// addErrors adds OPA's errors as faults.
func (r *Report) addErrors(err error) {
	for _, err := range sourceErrors(err) {
		var e *Error
		if errors.As(err, &e) {
			r.add(Fault, e.Location, "%v", e.Err)
		}
	}
}
