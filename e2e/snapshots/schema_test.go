package snapshots

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestSchema holds the schema that the binary prints against the examples: it takes them, and refuses each key misspelled
// and with values of other types, as the binary itself does.
func TestSchema(t *testing.T) {
	schema := printedSchema(t)
	for i, e := range readExamples(t, filepath.Join(snapshotDir(), configExample)) {
		if err := schema.Validate(decoded(t, strings.Join(e.lines, "\n"))); err != nil {
			t.Errorf("%s, document %d: %v", configExample, i+1, err)
		}
		for _, k := range e.keys {
			value := e.value(k)
			if value == "" {
				value = "{}"
			}
			refused(t, schema, e, k, k.name+"x: "+value)
			for _, wrong := range wrongValues[k.kind] {
				refused(t, schema, e, k, k.name+": "+wrong)
			}
			if k.note.values != nil && !strings.Contains(k.note.values[0], ":") { // forms of URIs are no closed set
				refused(t, schema, e, k, fmt.Sprintf("%s: %q", k.name, "x"+k.note.values[0]))
			}
		}
	}
}

// printedSchema compiles the output of `config schema`.
func printedSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	r := newProgram(t).run(t, "config", "schema")
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(r.stdout))
	if r.code != 0 || err != nil {
		t.Fatalf("%v: %s", err, r.said())
	}
	if draft := document.(map[string]any)["$schema"]; draft != "https://json-schema.org/draft/2020-12/schema" {
		t.Fatalf("the schema is of %v", draft)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("config.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// refused checks that the schema refuses an example in which a key's line is another one.
func refused(t *testing.T, schema *jsonschema.Schema, e *example, k exampleKey, line string) {
	t.Helper()
	if schema.Validate(decoded(t, e.change(t, map[int]string{k.line: line}))) == nil {
		t.Errorf("%s: the schema takes %q", k.path, line)
	}
}

// decoded returns a YAML document as JSON values.
func decoded(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	return document
}
