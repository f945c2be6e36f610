package config_test

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/config"
)

var write = flag.Bool("write", false, "write the reference into the document")

// TestReferenceIsCurrent compares the document with the comments and tags of the types.
func TestReferenceIsCurrent(t *testing.T) {
	const file, marker = "../../docs/configuration.md", "<!-- `make config-docs` writes all that follows, from the comments in internal/config. -->\n\n"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	byHand, generated, found := strings.Cut(string(text), marker)
	if !found {
		t.Fatalf("%s has no line %s", file, marker)
	}
	if *write {
		if err := os.WriteFile(file, []byte(byHand+marker+config.Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if generated != config.Reference() {
		t.Errorf("%s is not what the comments in this package say: run make config-docs", file)
	}
}

// TestEveryKeyIsDescribed: each row has a description.
func TestEveryKeyIsDescribed(t *testing.T) {
	rows := 0
	for line := range strings.Lines(config.Reference()) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		rows++
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) != 5 || len(cells[4]) < len("| . |") || !strings.HasSuffix(cells[4], ". |") {
			t.Errorf("no description, or one without a full stop: %s", line)
		}
	}
	if rows < 70 {
		t.Errorf("%d keys", rows)
	}
}

// TestSchemaDefaults: the defaults in the schema are those that an empty file gets.
func TestSchemaDefaults(t *testing.T) {
	text, err := json.Marshal(config.Schema())
	if err != nil {
		t.Fatal(err)
	}
	type mapping struct {
		Properties map[string]struct {
			Default any `json:"default"`
		} `json:"properties"`
	}
	var schema struct {
		mapping
		Definitions map[string]mapping `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	standard := config.Default()
	for what, pair := range map[string][2]any{
		"listeners":  {schema.Properties["listeners"].Default, []any{map[string]any{"name": standard.Listeners[0].Name, "address": standard.Listeners[0].Address}}},
		"upstreams":  {schema.Properties["upstreams"].Default, []any{map[string]any{"address": standard.Upstreams[0].Address}}},
		"keys":       {schema.Properties["keys"].Default, []any{map[string]any{"name": standard.Keys[0].Name, "active": standard.Keys[0].Active}}},
		"admin":      {schema.Properties["admin"].Default, standard.Admin},
		"shadow":     {schema.Properties["shadow"].Default, standard.Shadow},
		"drain.time": {schema.Definitions["Drain"].Properties["time"].Default, "25s"},
	} {
		got, _ := json.Marshal(pair[0])
		want, _ := json.Marshal(pair[1])
		if string(got) != string(want) {
			t.Errorf("%s: the schema's default is %s, want %s", what, got, want)
		}
	}
}
