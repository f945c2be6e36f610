package providers

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
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

var providers = []provider{awsKMS, awsRole, google, azureAES, azureRSA, openBao, plugIn, plugInWithContext, local}

func TestProviders(t *testing.T) {
	if os.Getenv("SEAL_PROVIDERS") == "" {
		t.Skip("make test-providers runs this: it needs python3, and PyPI the first time")
	}
	checkStubs(t)
	passed, without := 0, 0
	var latencies []latency
	for _, p := range providers {
		t.Run(p.name, func(t *testing.T) {
			peer := p.start(t)
			key, err := keyservice.Open(t.Context(), peer.uri)
			if err != nil {
				t.Fatal(err)
			}
			latencies = append(latencies, measure(t, key))
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
	if *writeTable && !t.Failed() {
		before, _, after := documented(t)
		if err := os.WriteFile(document, []byte(before+table(latencies)+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("providers: %d providers x %d cases, %d pass", len(providers), len(suite), passed)
	if without > 0 {
		text += fmt.Sprintf(", %d do not apply", without)
	}
	fmt.Println(text)
}

// TestTable requires that the document has the table of the suite, whatever latencies were measured when it was written.
func TestTable(t *testing.T) {
	if *writeTable {
		t.Skip("TestProviders writes it")
	}
	_, got, _ := documented(t)
	want := table(make([]latency, len(providers)))
	number := regexp.MustCompile(`\b[0-9]+ µs`)
	gotLines, wantLines := strings.Split(number.ReplaceAllString(got, "N µs"), "\n"), strings.Split(number.ReplaceAllString(want, "N µs"), "\n")
	if !slices.Equal(gotLines, wantLines) {
		t.Errorf("the table of %s is not the suite's; make test-providers WRITE=1 writes it\n%s\nwant\n%s", document, got, want)
	}
	if strings.Contains(got, " 0 µs") {
		t.Errorf("%s has latencies that were not measured", document)
	}
}

// documented returns the table of the document, with what stands before and after it.
func documented(t *testing.T) (before, table, after string) {
	t.Helper()
	content, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begins)
	table, after, closed := strings.Cut(rest, ends)
	if !found || !closed {
		t.Fatalf("%s has no place for the table: %s", document, begins)
	}
	return before + begins, table, ends + after
}

func table(latencies []latency) string {
	var b strings.Builder
	b.WriteString("| service | bound to namespace and key name by | forging is impossible by | an outage is distinguished from a revocation by | after a rotation | " +
		"latency here: generate, unwrap | permissions | tested against |\n")
	b.WriteString(strings.Repeat("|---", 8) + "|\n")
	for i, p := range providers {
		b.WriteString("| " + strings.Join([]string{p.name, p.binds, p.forging, p.outage, p.rotates, latencies[i].String(), p.needs, p.against}, " | ") + " |\n")
	}
	return b.String()
}

// latency is the median of how long a call takes.
type latency struct{ generate, unwrap time.Duration }

func (l latency) String() string {
	return fmt.Sprintf("%d µs, %d µs", l.generate.Microseconds(), l.unwrap.Microseconds())
}

// measure makes and unwraps data keys one after another. The relay before the service is part of what it measures.
func measure(t *testing.T, key crypto.Provider) latency {
	t.Helper()
	const calls = 100
	var generated, unwrapped []time.Duration
	for range calls {
		begin := time.Now()
		_, wrapped := made(t, key)
		generated, begin = append(generated, time.Since(begin)), time.Now()
		if _, err := key.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil {
			t.Fatal(err)
		}
		unwrapped = append(unwrapped, time.Since(begin))
	}
	slices.Sort(generated)
	slices.Sort(unwrapped)
	return latency{generated[calls/2], unwrapped[calls/2]}
}
