// Package mistakes holds what the program answers to inputs that are wrong: each with its exact message, which says where the
// mistake is, what it is, and what to do.
package mistakes

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

var write = flag.Bool("write", false, "write the messages as they are now")

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

// mistake is one wrong input: a command, the files that it reads, and the message.
type mistake struct {
	name    string
	command string
	files   []file
	want    string
}

type file struct{ name, text string }

const (
	collection = "testdata/mistakes.txt"
	// ordinary is the command of a mistake that names none.
	ordinary = "check --offline --config config.yaml"
	// least is how many mistakes the collection has at least.
	least = 100
)

// parse reads the collection: `=== name`, an optional `$ command`, files behind `--- name`, and the message behind `+++`.
func parse(text string) (all []mistake) {
	for _, part := range strings.Split("\n"+text, "\n=== ")[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		m := mistake{name: name, command: ordinary}
		var into *string
		for _, line := range strings.Split(strings.TrimRight(rest, "\n"), "\n") {
			switch {
			case strings.HasPrefix(line, "$ ") && into == nil:
				m.command = line[2:]
			case strings.HasPrefix(line, "--- "):
				m.files = append(m.files, file{name: line[4:]})
				into = &m.files[len(m.files)-1].text
			case line == "+++":
				into = &m.want
			case into != nil:
				*into += line + "\n"
			}
		}
		all = append(all, m)
	}
	return all
}

func (m mistake) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "=== %s\n", m.name)
	if m.command != ordinary {
		fmt.Fprintf(&b, "$ %s\n", m.command)
	}
	for _, f := range m.files {
		fmt.Fprintf(&b, "--- %s\n%s", f.name, f.text)
	}
	fmt.Fprintf(&b, "+++\n%s", m.want)
	return b.String()
}

// make writes the files of a mistake. Escapes stand for bytes that an editor does not show.
func (m mistake) make(t *testing.T, dir string) {
	t.Helper()
	escapes := strings.NewReplacer(`\ufeff`, "\ufeff", `\t`, "\t", `\r`, "\r", `\x00`, "\x00", `\xff`, "\xff")
	for _, f := range m.files {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(escapes.Replace(f.text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMistakes compares what the program prints with the collection.
func TestMistakes(t *testing.T) {
	proxy, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(collection)
	if err != nil {
		t.Fatal(err)
	}
	all := parse(string(text))
	if len(all) < least {
		t.Errorf("the collection has %d mistakes, and at least %d are expected", len(all), least)
	}
	seen := map[string]bool{}
	told := 0
	for i := range all {
		m := &all[i]
		if seen[m.name] {
			t.Errorf("two mistakes are named %q", m.name)
		}
		seen[m.name] = true
		dir := t.TempDir()
		m.make(t, dir)
		cmd := exec.CommandContext(t.Context(), proxy, strings.Fields(m.command)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_PROFILE=",
			"AWS_CONFIG_FILE=/none", "AWS_SHARED_CREDENTIALS_FILE=/none", "AWS_REGION=", "AWS_DEFAULT_REGION=", "VAULT_TOKEN=")
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s: the program takes it:\n%s", m.name, out)
			continue
		}
		got := messages(string(out))
		if *write {
			m.want = got
		}
		switch {
		case got == "":
			t.Errorf("%s: there is no message:\n%s", m.name, out)
		case got != m.want:
			t.Errorf("%s: the message is\n%s\nand not\n%s", m.name, got, m.want)
		default:
			told++
		}
	}
	if *write {
		var b strings.Builder
		for _, m := range all {
			b.WriteString(m.String())
		}
		if err := os.WriteFile(collection, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("mistakes: %d wrong inputs, %d answered as the collection has it\n", len(all), told)
}

// messages are the lines of an output that tell of a mistake.
func messages(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		for _, prefix := range []string{"temporal-seal: ", "error: ", "warning: "} {
			if strings.HasPrefix(line, prefix) {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}
