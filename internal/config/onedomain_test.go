package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/config"
)

// Namespaces trust each other only where one machine talks to itself and nobody has written a config.
func TestOneDomain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("keys: [{name: default, active: 'local:x.key'}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags config.Flags
		all   bool
	}{
		"a proxy on loopback":            {config.Flags{OneDomain: true}, true},
		"a command that is no proxy":     {config.Flags{}, false},
		"a server elsewhere":             {config.Flags{OneDomain: true, Upstream: "temporal.example:7233"}, false},
		"a config file that grants none": {config.Flags{OneDomain: true, File: file}, false},
	} {
		text, err := c.flags.Read()
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := c.flags.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if all := len(parsed.Grants) == 1 && parsed.Grants[0] == (config.Grant{From: "*", To: "*"}); all != c.all || !all && len(parsed.Grants) > 0 {
			t.Errorf("%s: grants %v", name, parsed.Grants)
		}
	}
}
