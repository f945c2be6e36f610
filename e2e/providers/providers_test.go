package providers

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

// provider is a key service with what docs/keys.md says about it.
type provider struct {
	name    string
	start   func(t *testing.T) *peer
	binds   string // who binds namespace and key name to a data key
	forging string // by what forging is impossible
	outage  string // how an outage is distinguished from a key that was taken away
	rotates string // what is sealed already, after a rotation
	needs   string // permissions
	against string // what the suite runs it against
}

var writeTable = flag.Bool("write", false, "write the table into docs/keys.md")

const (
	document = "../../docs/keys.md"
	begins   = "<!-- made by make test-providers -->\n"
	ends     = "<!-- end -->\n"
)

func TestProviders(t *testing.T) {
	if os.Getenv("SEAL_PROVIDERS") == "" {
		t.Skip("make test-providers runs this: it needs python3, and PyPI the first time")
	}
	providers := []provider{awsKMS, awsRole, google, azureAES, azureRSA, openBao, plugIn, plugInWithContext, local}
	checkStubs(t)
	passed, without := 0, 0
	for _, p := range providers {
		t.Run(p.name, func(t *testing.T) {
			peer := p.start(t)
			key, err := keyservice.Open(t.Context(), peer.uri)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range suite {
				t.Run(c.name, func(t *testing.T) {
					switch err := c.run(t, peer, key); {
					case err != nil:
						without++
						t.Skip(err)
					case !t.Failed():
						passed++
					}
				})
			}
		})
	}
	checkTable(t, providers)
	text := fmt.Sprintf("providers: %d providers x %d cases, %d pass", len(providers), len(suite), passed)
	if without > 0 {
		text += fmt.Sprintf(", %d do not apply", without)
	}
	fmt.Println(text)
}

// checkTable compares the table of the document, or writes it.
func checkTable(t *testing.T, providers []provider) {
	t.Helper()
	var b strings.Builder
	b.WriteString("| service | bound to namespace and key name by | forging is impossible by | an outage is distinguished from a revocation by | after a rotation | permissions | tested against |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	for _, p := range providers {
		b.WriteString("| " + strings.Join([]string{p.name, p.binds, p.forging, p.outage, p.rotates, p.needs, p.against}, " | ") + " |\n")
	}
	content, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begins)
	_, after, closed := strings.Cut(rest, ends)
	if !found || !closed {
		t.Fatalf("%s has no place for the table: %s", document, begins)
	}
	want := before + begins + b.String() + ends + after
	switch {
	case *writeTable:
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	case want != string(content):
		t.Errorf("the table of %s is not the suite's; make test-providers WRITE=1 writes it", document)
	}
}
