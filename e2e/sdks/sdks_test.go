// Package sdks runs workers and clients of Temporal's SDKs in several languages through the proxy. They are written as
// anybody would write them: nothing of this repository is in them, and only the address that they connect to is the
// proxy's. Each runs the same scenarios twice on one Temporal server: directly, and through the proxy in another namespace.
// What the application sees has to be the same, and no page of the server's database may hold the user data of the second.
// The user data of the first has to be found there, all of it.
package sdks

import (
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	directly = "direct"
	sealed   = "sealed"
	// scenarioTime bounds a scenario.
	scenarioTime = 150 * time.Second
	// frame is a function's name. It stands in every program's stack trace, and nowhere else.
	frame = "deepInTheClinic"
)

// report is what the last lines tell.
var report struct {
	table   [][]string
	summary string
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	harness.RemoveProxy()
	if report.summary != "" {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		for _, row := range report.table {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		_ = w.Flush() // of a terminal, or of whoever reads the table: if it is gone there is nobody to tell
		fmt.Println(report.summary)
	}
	os.Exit(code)
}

// bench is what the languages share.
type bench struct {
	dir           string // the server's database, and nothing else
	server        *peers.Process
	proxy         *harness.Proxy
	log           *harness.Log // of the programs, which hold clear text
	serverLog     *harness.Log
	hidden, plain *harness.Canaries // of the runs through the proxy, and of the direct ones
	frames        *harness.Canaries // what stack traces hold

	through map[string]*program        // the languages' programs behind the proxy, kept for each other
	results map[string]map[string]bool // by language and scenario
}

// TestSDKs runs the languages that SDKS names. It needs their programs built: `make test-sdks` does both.
func TestSDKs(t *testing.T) {
	if os.Getenv("SDKS") == "" {
		t.Skip("SDKS names no language; make test-sdks does")
	}
	b := &bench{
		log: harness.NewLog(), serverLog: harness.NewLog(), hidden: harness.NewCanaries(), plain: harness.NewCanaries(), frames: harness.NewCanaries(),
		through: map[string]*program{}, results: map[string]map[string]bool{},
	}
	b.frames.Add("a stack trace", frame)
	b.start(t)
	ran := strings.Fields(os.Getenv("SDKS"))
	for _, language := range ran {
		t.Run(language, func(t *testing.T) { b.language(t, language) })
	}
	t.Run("cross", func(t *testing.T) { b.cross(t, ran) })
	for _, p := range b.through {
		if err := p.end(); err != nil {
			t.Error(err)
		}
	}
	found := b.search(t)
	b.summarize(ran, found)
}

func (b *bench) start(t *testing.T) {
	b.dir = t.TempDir()
	var err error
	b.server, err = harness.StartTemporal(t.Context(), peers.TemporalOptions{
		DBFile: filepath.Join(b.dir, "temporal.db"), Namespaces: []string{directly, sealed}, Log: b.serverLog,
		SearchAttributes: map[string]string{"Region": "Keyword"},
		DynamicConfig:    map[string]any{"system.enableActivityEagerExecution": true, "system.enableEagerWorkflowStart": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stop(t, b.server) })
	kms := kmsstub.New(kmsstub.Options{})
	kms.SetAlias("alias/temporal", kms.CreateKey(false))
	if err := kms.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kms.Close)
	b.proxy, err = harness.StartProxy(t.Context(), harness.ProxyOptions{
		Dir: t.TempDir(), Upstream: b.server.Address,
		Keys: []harness.KeyOption{{Name: "default", Active: "awskms://alias/temporal?region=eu-central-1&endpoint=" + kms.URL}},
		Env:  []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stop(t, b.proxy.Process) })
}

func (b *bench) stop(t *testing.T, p *peers.Process) {
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// language runs all scenarios in one language, directly and through the proxy.
func (b *bench) language(t *testing.T, name string) {
	b.results[name] = map[string]bool{}
	began := time.Now()
	direct := b.program(t, name, b.server.Address, directly)
	through := b.program(t, name, b.proxy.Address, sealed)
	b.through[name] = through
	t.Logf("%s %s, ready twice in %.0f s", name, through.version, time.Since(began).Seconds())
	for _, s := range scenarios {
		b.results[name][s.name] = t.Run(s.name, func(t *testing.T) { b.compare(t, s, direct, through) })
	}
	if err := direct.end(); err != nil {
		t.Error(err)
	}
}

func (b *bench) program(t *testing.T, language, address, namespace string) *program {
	p, err := startProgram(language, address, namespace, language+"-"+strings.ToLower(rand.Text()[:12]), b.log)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// compare runs a scenario both ways: the application has to see the same.
func (b *bench) compare(t *testing.T, s scenario, direct, through *program) {
	var want, got []string
	var wantErr, gotErr error
	var both sync.WaitGroup // a scenario spends its time waiting for the server
	both.Go(func() { want, wantErr = b.lines(s, direct, b.plain) })
	both.Go(func() { got, gotErr = b.lines(s, through, b.hidden) })
	both.Wait()
	if wantErr != nil {
		t.Fatalf("directly: %v", wantErr)
	}
	if gotErr != nil {
		t.Fatalf("through the proxy: %v\nuntil then:\n%s", gotErr, strings.Join(got, "\n"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("through the proxy:\n%s\ndirectly:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, site := range s.sites {
		if site.in(direct.language) && !site.notShown && !strings.Contains(strings.Join(want, "\n"), "<"+site.name+">") {
			t.Errorf("the program never shows what it has at %q:\n%s", site.name, strings.Join(want, "\n"))
		}
	}
	if testing.Verbose() {
		t.Log(strings.Join(got, "\n"))
	}
}

func (b *bench) lines(s scenario, p *program, c *harness.Canaries) ([]string, error) {
	texts := s.add(c, p.language, p.queue, func(site site) bool { return c == b.hidden || !site.notKept })
	lines, err := p.do(s.name)
	return named(lines, p.queue, texts), err
}

// cross has each language's client and workflow use an activity of the next language's worker.
func (b *bench) cross(t *testing.T, ran []string) {
	for i, from := range ran {
		to := ran[(i+1)%len(ran)]
		here, there := b.through[from], b.through[to]
		if here == nil || there == nil {
			continue // it did not start, which has been told
		}
		passed := t.Run(from+" to "+to, func(t *testing.T) {
			input, result := secret(here.queue, "cross/input"), secret(there.queue, "cross/result")
			b.hidden.Add("cross input from "+from, input)
			b.hidden.Add("cross result from "+to, result)
			lines, err := here.do("cross " + there.queue)
			if err != nil {
				t.Fatal(err)
			}
			if want := result + " after " + input; !slices.Equal(lines, []string{want}) {
				t.Errorf("got %q, want %q", lines, want)
			}
		})
		b.results[from]["cross"] = passed
	}
}

// search looks for canaries in all that the server keeps. Those of the direct runs have to be found.
func (b *bench) search(t *testing.T) (found int) {
	hidden, plain, frames := harness.NewSweep(b.hidden), harness.NewSweep(b.plain), harness.NewSweep(b.frames)
	conn, err := grpc.NewClient(b.server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(frames.Recorder("the server's answer"), hidden.Recorder("the server's answer")), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(128<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := harness.Frontend(t.Context(), conn, sealed); err != nil {
		t.Error(err)
	}
	if n, _ := frames.Count(); n > 0 {
		t.Errorf("the server returns stack traces of workers behind the proxy:\n%s", frames.Report())
	}
	if err := harness.Frontend(t.Context(), conn, directly); err != nil {
		t.Error(err)
	}
	if n, _ := frames.Count(); n == 0 {
		t.Error("the search would not notice a stack trace")
	}
	both := func(where string, data []byte) {
		hidden.Bytes(where, data)
		plain.Bytes(where, data)
	}
	// Once while the write-ahead log is full, once after the server closed its database.
	for range 2 {
		for _, sweep := range []*harness.Sweep{hidden, plain} {
			if err := sweep.Files(b.dir); err != nil {
				t.Error(err)
			}
		}
		b.stop(t, b.server)
	}
	both("the server's log", b.serverLog.Bytes())
	hidden.Bytes("the proxy's log", b.proxy.Log.Bytes())
	found, searched := hidden.Count()
	t.Logf("%d of %d canaries found in %d MB", found, b.hidden.Len(), searched>>20)
	if found > 0 {
		t.Errorf("clear text outside of the workers and clients:\n%s", hidden.Report())
	}
	if _, absent := plain.Found(); len(absent) > 0 && !t.Failed() {
		t.Errorf("the search would not notice these canaries:\n%s", strings.Join(absent, "\n"))
	}
	return found
}

// summarize makes the table and the last line.
func (b *bench) summarize(ran []string, found int) {
	report.table = append(report.table, append([]string{""}, ran...))
	names := make([]string, 0, len(scenarios)+1)
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	for _, name := range append(names, "cross") {
		row := []string{name}
		for _, language := range ran {
			row = append(row, map[bool]string{true: "ok", false: "FAILED"}[b.results[language][name]])
		}
		report.table = append(report.table, row)
	}
	versions := []string{"SDK"}
	var counts []string
	for _, language := range ran {
		passed := 0
		for _, ok := range b.results[language] {
			if ok {
				passed++
			}
		}
		counts = append(counts, fmt.Sprintf("%s %d/%d", language, passed, len(scenarios)+1))
		version := "did not start"
		if p := b.through[language]; p != nil {
			version = p.version
		}
		versions = append(versions, version)
	}
	report.table = append(report.table, versions)
	report.summary = fmt.Sprintf("sdks: %s; canaries: %d of %d found", strings.Join(counts, " "), found, b.hidden.Len())
}
