package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestControlCharactersAreVisible: no text of others controls the terminal on which a command prints it.
func TestControlCharactersAreVisible(t *testing.T) {
	hostile := "id\x1b]0;title\a \x1b[2J \u009b31m \x7f \u202eabc\r"
	var out, errs bytes.Buffer
	if code := run([]string{"open", "--config", hostile + ".yaml"}, &out, &errs); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if text := errs.String(); strings.ContainsAny(text, "\x1b\a\u009b\x7f\u202e\r") || !strings.Contains(text, `\u001b`) {
		t.Errorf("%q", text)
	}
	var document bytes.Buffer
	if err := writeJSON(visible{to: &document}, map[string]string{"id": hostile}); err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal(document.Bytes(), &back); err != nil || back["id"] != hostile {
		t.Errorf("%v: %q", err, back["id"])
	}
	if strings.ContainsAny(document.String(), "\x1b\u009b\x7f\u202e") {
		t.Errorf("%q", document.String())
	}
	for color, want := range map[bool]string{true: "\x1b[31mred\x1b[0m \\u001b[8mhidden", false: "\\u001b[31mred\\u001b[0m \\u001b[8mhidden"} {
		out.Reset()
		n, err := visible{to: &out, color: color}.Write([]byte("\x1b[31mred\x1b[0m \x1b[8mhidden"))
		if err != nil || n != len("\x1b[31mred\x1b[0m \x1b[8mhidden") || out.String() != want {
			t.Errorf("%d %v %q", n, err, out.String())
		}
	}
}
