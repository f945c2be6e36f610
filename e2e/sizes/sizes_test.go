package sizes

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

const (
	mostBinary = 90.0 // MB, with everything
	mostMemory = 10.0 // MB at start, above that of a build without the large clients
	starts     = 11

	document = "../../docs/sizing.md"
	begins   = "<!-- made by make sizes -->\n"
	ends     = "<!-- end -->\n"
)

var writeTable = flag.Bool("write", false, "write the table into docs/sizing.md")

// build is a build of the proxy.
type build struct{ what, tags string }

// builds are the one with everything, those without one client, and the one without all that can be left out, in this order.
var builds = []build{
	{"every key service", ""},
	{"without Google's client", "nogcp"},
	{"without Azure's client", "noazure"},
	{"without both", "nogcp,noazure"},
}

// size is what was measured of a build, in MB of 1,000,000 bytes; start is the median.
type size struct {
	binary, memory float64
	start          time.Duration
}

func TestSizes(t *testing.T) {
	if os.Getenv("SEAL_SIZES") == "" {
		t.Skip("make sizes runs this: it builds the proxy four times")
	}
	var paths []string
	for _, b := range builds {
		path := filepath.Join(t.TempDir(), "proxy")
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", b.tags, "-o", path, "./cmd/proxy")
		cmd.Dir = harness.Root()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", b.what, err, out)
		}
		paths = append(paths, path)
	}
	sizes := measure(t, paths)
	all, none := sizes[0], sizes[len(sizes)-1]
	if all.binary > mostBinary {
		t.Errorf("the binary has %.1f MB, want at most %.0f", all.binary, mostBinary)
	}
	if more := all.memory - none.memory; more > mostMemory {
		t.Errorf("the clients that a build tag leaves out cost %.1f MB at start, want at most %.0f", more, mostMemory)
	}
	for i, b := range builds {
		// A tag that left nothing out would make the comparison worthless.
		if b.tags != "" && sizes[i].binary > all.binary-1 {
			t.Errorf("the tags %s leave out less than 1 MB: %.1f MB of %.1f", b.tags, sizes[i].binary, all.binary)
		}
	}
	text := table(sizes)
	fmt.Print(text)
	if *writeTable && !t.Failed() {
		before, _, after := documented(t)
		if err := os.WriteFile(document, []byte(before+text+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("sizes: %d builds, %.1f MB, %d ms to start, %.1f MB of memory then\n", len(builds), all.binary, all.start.Milliseconds(), all.memory)
}

// measure starts the binaries in turn, some times, with a key in a file, until they serve.
func measure(t *testing.T, paths []string) []size {
	t.Helper()
	frontend, err := blackbox.StartFrontend(func(blackbox.Received) blackbox.Answer { return blackbox.Answer{} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(frontend.Stop)
	times, memories := make([][]time.Duration, len(paths)), make([][]float64, len(paths))
	dir := t.TempDir()
	for round := range starts + 1 {
		for i, path := range paths {
			begin := time.Now()
			p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: dir, Upstream: frontend.Address, Binary: path})
			if err != nil {
				t.Fatal(err)
			}
			if round > 0 { // the first start reads the file from the disk
				times[i] = append(times[i], time.Since(begin))
				memories[i] = append(memories[i], memory(t, p.PID()))
			}
			if err := p.Stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	sizes := make([]size, len(paths))
	for i, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(times[i])
		slices.Sort(memories[i])
		sizes[i] = size{float64(info.Size()) / 1e6, memories[i][starts/2], times[i][starts/2]}
	}
	return sizes
}

// memory returns the resident memory of a process, in MB.
func memory(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("the memory of a process is read from /proc: ", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("process %d has no VmRSS", pid)
	}
	kilobytes, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return float64(kilobytes) * 1024 / 1e6
}

// TestTable requires that the document has a row for each build, with limits of this test, whatever was measured.
func TestTable(t *testing.T) {
	if *writeTable {
		t.Skip("TestSizes writes it")
	}
	number := regexp.MustCompile(`[0-9.]+ (MB|ms) \|`)
	before, got, _ := documented(t)
	got, want := number.ReplaceAllString(got, "N $1 |"), number.ReplaceAllString(table(make([]size, len(builds))), "N $1 |")
	if got != want {
		t.Errorf("the table of %s is not the test's; make sizes WRITE=1 writes it\n%s\nwant\n%s", document, got, want)
	}
	for _, limit := range []string{fmt.Sprintf("%.0f MB", mostBinary), fmt.Sprintf("%.0f MB", mostMemory)} {
		if !strings.Contains(before, limit) {
			t.Errorf("%s does not name the limit of %s", document, limit)
		}
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

func table(sizes []size) string {
	var b strings.Builder
	b.WriteString("| build | tags | binary | from start to serving | resident memory then |\n|---|---|---|---|---|\n")
	for i, s := range sizes {
		tags := "none"
		if builds[i].tags != "" {
			tags = "`-tags " + builds[i].tags + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %.1f MB | %d ms | %.1f MB |\n", builds[i].what, tags, s.binary, s.start.Milliseconds(), s.memory)
	}
	return b.String()
}
