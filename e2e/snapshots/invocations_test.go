package snapshots

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// files is what the invocations below find in their folder, beside what site makes.
var files = map[string]string{
	"good.rego": `package temporal

response contains {"action": "open"}
`,
	"broken.rego": `package temporal

request contains
`,
	"lint.rego": `package temporal

request contains {"action": "pass"} if input.payload.kind == "header"
`,
	"unknown.rego": `package temporal

request contains {"action": "seal", "key": "missing"}
`,
	"fact.rego": `package temporal

request contains {"action": "pass"} if input.workflow.type == "A"
`,
	"good.yaml": `keys: [{name: default, active: "local:seal.key"}]
policy: {file: good.rego}
`,
	"typo.yaml":  "listenres: []\n",
	"value.yaml": "shadow: maybe\n",
	"no-key.yaml": `keys: [{name: default, active: "local:seal.key", open_only: ["local:gone.key"]}]
`,
	"foreign.yaml": `keys: [{name: default, active: "local:seal.key"}]
foreign: [{namespaces: [a], format: zlib}]
codec_server: {}
`,
	"wildcard.yaml": `keys:
  - {name: "tenant/*", namespaces: [saas], active: "local:{1}.key"}
  - {name: default, active: "local:seal.key"}
`,
	"passes.yaml": `cases: [{name: c, input: {namespace: a, rpc: StartWorkflowExecution, payload: {kind: input}}, want: {action: seal}}]
`,
	"fails.yaml": `cases: [{name: c, input: {namespace: a, rpc: StartWorkflowExecution, payload: {kind: input}}, want: {action: pass}}]
`,
	"several.yaml": `cases:
  - {name: a, input: {namespace: a, rpc: StartWorkflowExecution, payload: {kind: input}}}
  - {name: b, input: {namespace: a, rpc: StartWorkflowExecution, payload: {kind: memo}}}
`,
	"not.json": "{",
	"plain.json": `{"events": [{"eventId": "1", "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED", "workflowExecutionStartedEventAttributes": {
		"workflowType": {"name": "A"}, "identity": "jane@example.org", "memo": {"fields": {"mail": {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "IngiCg=="}}},
		"searchAttributes": {"indexedFields": {"Mail": {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "ImphbmVAZXhhbXBsZS5vcmciCg=="}}},
		"input": {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "eyJqYW5lQGV4YW1wbGUub3JnIjp7InBhc3N3b3JkIjoieCJ9fQo="}]}}},
		{"eventId": "5", "eventType": "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED", "activityTaskScheduledEventAttributes": {"activityId": "5", "activityType": {"name": "B"},
		"input": {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "InRleHQi"}]}}}]}`,
	"wide.json": `{"events": [{"eventId": "1", "eventType": "EVENT_TYPE_WORKFLOW_EXECUTION_STARTED", "workflowExecutionStartedEventAttributes": {
		"workflowType": {"name": "A"}, "input": {"payloads": [{"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "` + wide() + `"}]}}}]}`,
	"partial.rego": `package temporal

request contains {"action": "seal", "fields": ["/card"], "missing": "pass"}

response contains {"action": "open"}
`,
	"rules.yaml": "rules: [{what: ward, names: [ward]}]\n",
	"clear.json": `{"a": [1, true, null, "text"]}`,
}

// wide returns a document with more members than a survey lists, in base64.
func wide() string {
	members := []string{`"card":1`}
	for i := range 42 {
		members = append(members, fmt.Sprintf(`"m%d":1`, i))
	}
	return base64.StdEncoding.EncodeToString([]byte("{" + strings.Join(members, ",") + "}"))
}

// site is a folder with files, a scripted upstream, a proxy that serves, one that starts, and one that drains.
type site struct {
	program
	upstream  *upstream
	variables []string // pairs of $NAME and its value
}

func newSite(t *testing.T) site {
	t.Helper()
	stub := startKMS(t)
	s := site{program: newProgram(t, stub.env...)}
	s.write(t, "kms.yaml", fmt.Sprintf("keys: [{name: default, active: %q}]\n", stub.uri))
	for name, text := range files {
		s.write(t, name, text)
	}
	for _, key := range []string{"seal.key", "other.key"} {
		if r := s.run(t, "keys", "new", key); r.code != 0 {
			t.Fatal(r.said())
		}
	}
	s.write(t, "open.key", readFile(t, filepath.Join(s.dir, "seal.key")))
	if err := os.Chmod(filepath.Join(s.dir, "open.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	store := s.run(t, "keystore", "init", "sqlite:keys.db")
	if store.code != 0 {
		t.Fatal(store.said())
	}
	for name, id := range map[string]string{"stored.yaml": strings.TrimSpace(store.stdout), "other-store.yaml": strings.Repeat("0", 32)} {
		s.write(t, name, fmt.Sprintf("keys: [{name: default, active: 'local:seal.key', envelope: reference}]\nkey_store: {url: 'sqlite:keys.db', id: %q}\n", id))
	}
	u := startUpstream(t)
	if err := s.subject(t, u, "alone").Stop(); err != nil {
		t.Fatal(err)
	}
	s.subject(t, u, "subjects").Kill() // the server has what this one has sealed
	s.write(t, "other-subjects.yaml", strings.ReplaceAll(readFile(t, filepath.Join(s.dir, "subjects.yaml")), "local:seal.key", "local:other.key"))
	s.expiring(t, u)
	// The config is written in a folder of its own: the file names of this one are part of the snapshot.
	proxy, conn := start(t, harness.ProxyOptions{Upstream: u.address, Candidate: candidate,
		Keys: []harness.KeyOption{{Name: "default", Active: "local:" + filepath.Join(s.dir, "seal.key")}}})
	client := workflowservice.NewWorkflowServiceClient(conn)
	if _, err := client.StartWorkflowExecution(t.Context(), startRequest("default", "good")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetWorkflowExecutionHistory(t.Context(), historyRequest("default", "good")); err != nil {
		t.Fatal(err)
	}
	sealed, err := u.history("good")
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "history.json", protojson.Format(sealed))
	unsealed(t, u)
	ofKMS, _ := start(t, harness.ProxyOptions{Upstream: u.address, Env: stub.env, Keys: []harness.KeyOption{{Name: "default", Active: stub.uri}}})
	drainer, _ := start(t, harness.ProxyOptions{Upstream: u.address, Extra: "drain: {delay: 60s}\n"})
	if err := syscall.Kill(drainer.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	untilDraining(t, drainer)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // nobody speaks to it
	s.upstream, s.variables = u, []string{"$UPSTREAM", u.address, "$ADMIN", proxy.Admin, "$DRAINING", drainer.Admin, "$OFKMS", ofKMS.Admin, "$KMSKEY", stub.uri,
		"$TAKEN", taken.Addr().String(), "$NOBODY", "127.0.0.1:1",
		"$VAULT", "vault://127.0.0.1:1/transit/seal"}
	return s
}

// unsealed starts workflows past the proxy: in clear, with what another codec encoded, and with a document.
func unsealed(t *testing.T, u *upstream) {
	t.Helper()
	client := workflowservice.NewWorkflowServiceClient(dial(t, u.address))
	for _, encoding := range []string{"json/plain", "binary/encrypted"} {
		r := startRequest("default", encoding)
		r.Input.Payloads[0].Metadata["encoding"] = []byte(encoding)
		if _, err := client.StartWorkflowExecution(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	r := startRequest("default", "document")
	r.Input.Payloads[0].Metadata["encoding"] = []byte("json/plain")
	r.Input.Payloads[0].Data = []byte(`{"jane@example.org":[{"a":1}],"b":"text"}`)
	if _, err := client.StartWorkflowExecution(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func untilDraining(t *testing.T, proxy *harness.Proxy) {
	t.Helper()
	until(t, "the proxy drains", func() bool {
		code, _, err := proxy.Get("/readyz")
		return err == nil && code != http.StatusOK
	})
}

// do runs a command line. $NAMEs stand for addresses; a first word NAME=value goes into the environment.
func (s site) do(t *testing.T, line string) result {
	t.Helper()
	args := strings.Fields(strings.NewReplacer(s.variables...).Replace(line))
	p := s.program
	if len(args) > 0 && isVariable(args[0]) {
		p.env = append(slices.Clone(p.env), args[0])
		args = args[1:]
	}
	return p.run(t, args...)
}

// stopScan ends a scan by a signal while it waits for a page, and returns its exit code. The file state then holds what
// it had found.
func (s site) stopScan(t *testing.T, state string) int {
	t.Helper()
	hanging := s.upstream.hanging.Load()
	p, err := peers.Start("scan", s.command(t.Context(), "keys", "scan", "--config", "good.yaml",
		"--upstream", s.upstream.address, "--namespace", endlessNamespace, "--state", state), harness.NewLog())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	until(t, "the scan waits for a page", func() bool { return s.upstream.hanging.Load() > hanging })
	if err := syscall.Kill(p.PID(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	return exitCode(t, p)
}

func isVariable(word string) bool {
	return strings.Contains(word, "=") && !strings.HasPrefix(word, "-")
}

// invocation is a command line, and what is special about it.
type invocation struct{ line, why string }

// invocations run one after the other in the same folder.
var invocations = []invocation{
	{"--help", ""},
	{"--version", ""},
	{"nothing", "unknown command"},
	{"--nothing", "unknown flag"},
	{"GODEBUG=http2debug=1 version", "would print payloads"},

	{"serve --nothing", "unknown flag"},
	{"serve extra", "an argument"},
	{"serve --log-level loud", "not a level"},
	{"serve --log-format xml", "not a format"},
	{"serve --config gone.yaml", "no such file"},
	{"serve --config typo.yaml", "unknown key"},
	{"serve --config value.yaml", "bad value"},
	{"serve --upstream $UPSTREAM --listen $TAKEN --admin 127.0.0.1:0", "address in use"},
	{"serve --upstream $UPSTREAM --listen 127.0.0.1:0 --admin $TAKEN", "address in use"},
	{"serve --upstream $UPSTREAM --listen 127.0.0.1:0 --admin 127.0.0.1:0 --policy broken.rego", "policy does not compile"},
	{"serve --upstream $UPSTREAM --listen 127.0.0.1:0 --admin 127.0.0.1:0 --key local:open.key", "key file with mode 0644"},

	{"check --config good.yaml", ""},
	{"check --config good.yaml --output json", ""},
	{"check --key local:new.key", "the key file would be made by serve"},
	{"check --config good.yaml --cases passes.yaml", "cases pass"},
	{"check --config good.yaml --cases fails.yaml", "a case fails"},
	{"check --config good.yaml --cases fails.yaml --output json", "a case fails"},
	{"check --config good.yaml --cases gone.yaml", "no such file"},
	{"check --config good.yaml --policy broken.rego", "policy does not compile"},
	{"check --config good.yaml --policy broken.rego --output json", "policy does not compile"},
	{"check --config good.yaml --policy lint.rego", "a policy that opens nothing"},
	{"check --config good.yaml --policy unknown.rego", "policy names a key that is not there"},
	{"check --config gone.yaml", "no such file"},
	{"check --config typo.yaml", "unknown key"},
	{"check --config typo.yaml --output json", "unknown key"},
	{"check --config value.yaml", "bad value"},
	{"check --key $VAULT --timeout 1s", "the active key does not answer"},
	{"check --config no-key.yaml", "a key that only opens does not answer"},
	{"check --config good.yaml --output xml", "not a format"},
	{"check --nothing", "unknown flag"},
	{"check extra", "an argument"},

	{"explain --config good.yaml", ""},
	{"explain --config good.yaml --output json", ""},
	{"explain --config good.yaml --input several.yaml", ""},
	{"explain --config good.yaml --policy unknown.rego", "policy names a key that is not there"},
	{"explain --config good.yaml --policy broken.rego", "policy does not compile"},
	{"explain --config good.yaml --kind nothing", "not a kind"},
	{"explain --config good.yaml --direction sideways", "not a direction"},
	{"explain --config good.yaml --input gone.yaml", "no such file"},
	{"explain --config good.yaml --input typo.yaml", "unknown key"},
	{"explain --config typo.yaml", "unknown key"},
	{"explain --claim team", "not name=value"},
	{"explain --nothing", "unknown flag"},

	{"init site --namespace a", ""},
	{"init site", "they exist"},
	{"init other --listen 0.0.0.0:7333", "no namespace named"},
	{"check --offline --config site/config.yaml", "what init wrote"},

	{"keys", "shows its help"},
	{"keys nothing", "unknown command"},
	{"keys new", "no file named"},
	{"keys new made.key", ""},
	{"keys new made.key", "it exists"},
	{"keys new made.key --if-missing", "it exists"},
	{"keys new no-folder/made.key", "no such folder"},
	{"keys rotate made.key", ""},
	{"keys rotate gone.key", "no such file"},
	{"keys rotate open.key", "mode 0644"},
	{"keys rotate not.json", "not a key file"},
	{"keys list --config good.yaml", ""},
	{"keys list --config no-key.yaml", "a key that only opens does not answer"},
	{"keys list --key local:gone.key", "the active key does not answer"},
	{"keys list --config typo.yaml", "unknown key"},
	{"keys list --running --admin $ADMIN", ""},
	{"keys list --running --admin $NOBODY", "no proxy answers"},
	{"keys scan --config good.yaml --upstream $UPSTREAM", ""},
	{"keys scan --config good.yaml --upstream $UPSTREAM --key local:seal.key", "in use"},
	{"keys scan --config good.yaml --upstream $UPSTREAM --key local:other.key", "not in use"},
	{"keys scan --config good.yaml --upstream $UPSTREAM --namespace unreadable", "not everything can be read"},
	{"keys scan --config good.yaml --upstream $UPSTREAM --namespace unreadable --key local:other.key",
		"not everything can be read"},
	{"keys scan --config good.yaml --upstream $UPSTREAM --key local:gone.key", "the key does not answer"},
	{"keys scan --config good.yaml --upstream $NOBODY", "no server answers"},
	{"keys scan --rate 0", "bad value"},
	{"keys scan --config typo.yaml", "unknown key"},

	{"keystore", "shows its help"},
	{"keystore init sqlite:made.db", ""},
	{"keystore init sqlite:made.db", "it exists"},
	{"keystore init sqlite:no-folder/made.db", "no such folder"},
	{"keystore init mysql://localhost", "not a key store"},
	{"keystore init", "no key store named"},
	{"keystore migrate --config stored.yaml", ""},
	{"keystore migrate --config good.yaml", "no key store"},
	{"keystore check --config stored.yaml", ""},
	{"keystore recover --config stored.yaml --upstream $UPSTREAM --namespace default", ""},
	{"keystore recover --config stored.yaml --upstream $UPSTREAM --namespace unreadable", "not everything can be read"},
	{"keystore recover --config stored.yaml --upstream $NOBODY", "no server answers"},
	{"keystore recover --config good.yaml", "no key store"},
	{"keystore recover --rate 0", "bad value"},
	{"keystore rewrap --config stored.yaml", ""},
	{"keystore rewrap --config good.yaml", "no key store"},
	{"keystore export --config stored.yaml rows.jsonl", ""},
	{"keystore export --config stored.yaml rows.jsonl", "it exists"},
	{"keystore export --config good.yaml", "no file named"},
	{"keystore import --config stored.yaml rows.jsonl", ""},
	{"keystore import --config stored.yaml not.json", "not an export"},
	{"keystore import --config stored.yaml gone.jsonl", "no such file"},
	{"keystore check --config other-store.yaml", "not the store of the config"},
	{"keystore check --config good.yaml", "no key store"},
	{"keystore check --config typo.yaml", "unknown key"},
	{"subjects", "shows its help"},
	{"subjects list --config stored.yaml", ""},
	{"subjects list --config good.yaml", "no key store"},
	{"subjects verify --config stored.yaml", ""},
	{"subjects show --config stored.yaml --namespace default --subject-file not.json", "no subject was sealed for"},
	{"subjects erase --config stored.yaml --namespace default --subject-file not.json --reason request-1 --yes", "no subject was sealed for"},
	{"subjects erase --config stored.yaml --namespace default --subject-file not.json", "no reason"},
	{"subjects erase --config stored.yaml --namespace default --subject-file - --reason request-1", "standard input has the subject"},
	{"subjects readmit --config stored.yaml --namespace default --subject-file gone.txt --reason request-1 --yes", "no such file"},
	{"subjects reapply-erasures --config stored.yaml gone.jsonl", "no such file"},

	{"open --config good.yaml history.json", ""},
	{"open --config good.yaml clear.json", "nothing is sealed"},
	{"open --key local:other.key history.json", "another key"},
	{"open --config good.yaml --namespace other history.json", "another namespace"},
	{"open --config good.yaml not.json", "not JSON"},
	{"open --config good.yaml gone.json", "no such file"},
	{"open --config typo.yaml history.json", "unknown key"},
	{"open a b", "two files"},

	{"health --admin $ADMIN", ""},
	{"health --admin $ADMIN --live", ""},
	{"health --admin $DRAINING", "it drains"},
	{"health --admin $DRAINING --live", "it drains"},
	{"health --admin $NOBODY", "no proxy answers"},
	{"health --admin nowhere", "bad value"},
	{"health --admin $NOBODY --output json", "no proxy answers"},

	{"config schema", ""},
	{"config docs", ""},
	{"config schema extra", "an argument"},

	{"survey plain.json", ""},
	{"survey --config good.yaml --policy good.rego --rules rules.yaml --html report.html --write-policy written plain.json", ""},
	{"survey --write-policy written plain.json", "the folder is not empty"},
	{"survey --upstream $UPSTREAM --list-rate 100", ""},
	{"survey --upstream $UPSTREAM --namespace unreadable --list-rate 100", "not everything can be read"},
	{"survey --upstream $NOBODY", "no server answers"},
	{"survey --since yesterday --upstream $UPSTREAM", "bad value"},
	{"survey --rate 0", "bad value"},
	{"survey not.json", "no history"},
	{"survey --rules gone.yaml plain.json", "no such file"},
	{"survey --policy gone.rego plain.json", "no such file"},
	{"survey --config typo.yaml", "unknown key"},

	{"version", ""},
	{"version extra", "an argument"},
	{"completion bash", ""},
	{"completion nothing", "unknown shell"},
}

// takeExitCodes runs every invocation, and ends serving proxies by signals.
func takeExitCodes(t *testing.T) []string {
	s := newSite(t)
	var lines []string
	for _, i := range invocations {
		r := s.do(t, i.line)
		about := "temporal-seal " + i.line
		if variable, rest, _ := strings.Cut(i.line, " "); isVariable(variable) {
			about = variable + " proxy " + rest
		}
		if i.why != "" {
			about += " (" + i.why + ")"
		}
		lines = append(lines, fmt.Sprintf("%s: exit %d, %s", about, r.code, streams(r)))
	}
	slices.Sort(lines)
	if n := len(slices.Compact(slices.Clone(lines))); n != len(lines) {
		t.Error("two invocations have the same name")
	}
	code := s.stopScan(t, "state.json")
	lines = append(lines, fmt.Sprintf("temporal-seal keys scan --state state.json (ended by SIGINT): exit %d", code))
	return append(lines, takeSignals(t, s)...)
}

func streams(r result) string {
	var used []string
	if r.stdout != "" {
		used = append(used, "stdout")
	}
	if r.stderr != "" {
		used = append(used, "stderr")
	}
	if len(used) == 0 {
		return "silent"
	}
	return strings.Join(used, " and ")
}

// takeSignals ends proxies by signals, at rest and while they drain.
func takeSignals(t *testing.T, s site) []string {
	var lines []string
	for _, end := range []struct {
		why     string
		config  string
		signals []syscall.Signal
	}{
		{"SIGINT", "", []syscall.Signal{syscall.SIGINT}},
		{"SIGTERM", "", []syscall.Signal{syscall.SIGTERM}},
		{"SIGTERM, and again while it drains", "drain: {delay: 60s}\n", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}},
	} {
		proxy, _ := start(t, harness.ProxyOptions{Upstream: s.upstream.address, Extra: end.config})
		for i, signal := range end.signals {
			if i > 0 {
				untilDraining(t, proxy)
			}
			if err := syscall.Kill(proxy.PID(), signal); err != nil {
				t.Fatal(err)
			}
		}
		lines = append(lines, fmt.Sprintf("temporal-seal serve (ended by %s): exit %d", end.why, exitCode(t, proxy.Process)))
	}
	return lines
}

func exitCode(t *testing.T, p *peers.Process) int {
	t.Helper()
	select {
	case <-p.Done():
		return p.ExitCode()
	case <-time.After(20 * time.Second):
		t.Fatal("the proxy did not end")
		return 0
	}
}

// candidate returns what a proxy with a candidate policy lists.
func (s *site) candidate(t *testing.T) string {
	t.Helper()
	a, err := http.Get("http://" + s.variables[slices.Index(s.variables, "$ADMIN")+1] + "/candidate")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("/candidate: %d, %v", a.StatusCode, err)
	}
	return string(text)
}

// scanned are the objects of a scan's report whose members the user names.
var scanned = []string{"namespaces", "namespaces{}.walked", "namespaces{}.clear", "namespaces{}.foreign",
	"namespaces{}.sealed[].data_keys"}

// subject makes a config with a key store that has the key of one subject. It returns the proxy that sealed for it.
func (s *site) subject(t *testing.T, u *upstream, name string) *harness.Proxy {
	t.Helper()
	store := s.run(t, "keystore", "init", "sqlite:"+name+".db")
	if store.code != 0 {
		t.Fatal(store.said())
	}
	text := func(dir string) string {
		return fmt.Sprintf("key_store: {url: 'sqlite:%s%s.db', id: %q}\n", dir, name, strings.TrimSpace(store.stdout))
	}
	s.write(t, name+".yaml", "keys: [{name: default, active: 'local:seal.key'}]\n"+text(""))
	s.write(t, "person.txt", "person\n")
	proxy, conn := start(t, harness.ProxyOptions{Upstream: u.address, Extra: text(s.dir + "/"),
		Keys:   []harness.KeyOption{{Name: "default", Active: "local:" + filepath.Join(s.dir, "seal.key")}},
		Policy: "package temporal\n\nrequest contains {\"action\": \"seal\", \"subject\": {\"fact\": \"workflow.id\"}, \"default_subject\": \"nobody\"}\n"})
	if _, err := workflowservice.NewWorkflowServiceClient(conn).StartWorkflowExecution(t.Context(), startRequest("default", "person")); err != nil {
		t.Fatal(err)
	}
	return proxy
}

// expiring makes configs with a key store that has a key which expires: with its key, and with another one, which unwraps nothing.
func (s *site) expiring(t *testing.T, u *upstream) {
	t.Helper()
	store := s.run(t, "keystore", "init", "sqlite:expiring.db")
	if store.code != 0 {
		t.Fatal(store.said())
	}
	text := func(dir string) string {
		return fmt.Sprintf("key_store: {url: 'sqlite:%sexpiring.db', id: %q}\n", dir, strings.TrimSpace(store.stdout))
	}
	for name, key := range map[string]string{"expiring.yaml": "seal.key", "other-expiring.yaml": "other.key"} {
		s.write(t, name, fmt.Sprintf("keys: [{name: default, active: 'local:%s', envelope: reference, life: 30d}]\n%s", key, text("")))
	}
	proxy, conn := start(t, harness.ProxyOptions{Upstream: u.address, Extra: text(s.dir + "/"),
		Keys: []harness.KeyOption{{Name: "default", Active: "local:" + filepath.Join(s.dir, "seal.key"), Reference: true, Life: "30d"}}})
	if _, err := workflowservice.NewWorkflowServiceClient(conn).StartWorkflowExecution(t.Context(), startRequest("default", "expiring")); err != nil {
		t.Fatal(err)
	}
	if err := proxy.Stop(); err != nil {
		t.Fatal(err)
	}
}

// takeJSON reads the JSON output of every command that has one.
func takeJSON(t *testing.T) []string {
	s := newSite(t)
	var lines []string
	for _, what := range []struct {
		command string
		open    []string // objects with members that the user names
		lines   []string // what follows the command
	}{
		{"check --output json", []string{"default_keys"}, []string{
			"--config good.yaml", "--config foreign.yaml", "--key local:new.key", "--config typo.yaml",
			"--config good.yaml --policy broken.rego", "--config good.yaml --cases fails.yaml",
			"--config good.yaml --policy lint.rego", "--config no-key.yaml"}},
		{"explain --output json", nil, []string{
			"--config good.yaml", "--config good.yaml --input several.yaml", "--config good.yaml --policy unknown.rego",
			"--config good.yaml --policy fact.rego --unknown workflow.type", "--config good.yaml --direction response",
			"--config good.yaml --kind text", "--config good.yaml --external"}},
		{"keys list --output json", nil, []string{"--config good.yaml", "--config no-key.yaml", "--config wildcard.yaml", "--config kms.yaml"}},
		{"keys list --running --output json", nil, []string{"--admin $ADMIN", "--admin $DRAINING", "--admin $OFKMS"}},
		{"keys reference --output json", nil, []string{"local:seal.key", "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}},
		{"keys scan --output json", append([]string{"keys"}, scanned...), []string{
			"--config good.yaml --upstream $UPSTREAM", "--config good.yaml --upstream $UPSTREAM --key local:seal.key",
			"--config good.yaml --upstream $UPSTREAM --namespace unreadable",
			"--config kms.yaml --upstream $UPSTREAM --key $KMSKEY"}},
		{"open", nil, []string{"--config good.yaml history.json", "--key local:other.key history.json"}},
		{"health --output json", nil, []string{"--admin $ADMIN", "--admin $DRAINING"}},
		{"keys new --output json", nil, []string{"json.key", "json.key --if-missing"}},
		{"keys rotate --output json", nil, []string{"json.key"}},
		{"survey --output json", []string{"sources[].walked", "rows[].in_force", "rows[].candidate"}, []string{
			"plain.json", "--config good.yaml --policy good.rego plain.json", "--upstream $UPSTREAM --list-rate 100", "--samples 1 plain.json plain.json",
			"--policy partial.rego wide.json", "--policy partial.rego plain.json",
			"--upstream $UPSTREAM --namespace unreadable --list-rate 100"}},
		{"version --output json", nil, []string{""}},
		{"init --output json", nil, []string{"json-site"}},
		{"keystore init --output json", nil, []string{"sqlite:json.db", "sqlite:json.db"}},
		{"keystore migrate --output json", nil, []string{"--config stored.yaml"}},
		{"keystore check --output json", nil, []string{"--config stored.yaml", "--config expiring.yaml", "--config other-expiring.yaml"}},
		{"keystore rewrap --output json", nil, []string{"--config stored.yaml", "--config other-expiring.yaml"}},
		{"keystore export --output json", nil, []string{"--config stored.yaml json.jsonl"}},
		{"keystore import --output json", nil, []string{"--config stored.yaml json.jsonl"}},
		{"keystore recover --output json", nil, []string{"--config stored.yaml --upstream $UPSTREAM --namespace default"}},
		{"subjects list --output json", nil, []string{"--config stored.yaml", "--config subjects.yaml"}},
		{"subjects verify --output json", nil, []string{"--config subjects.yaml", "--config other-subjects.yaml"}},
		{"subjects erase --config subjects.yaml --namespace default --subject-file person.txt --reason request-1 --by dpo", nil, []string{
			"--dry-run --offline", "--dry-run --upstream $UPSTREAM --max-workflows 1", "--yes --wait 1s",
			"--yes --wait 1s --upstream $UPSTREAM --terminate", "--yes --config alone.yaml"}},
		{"subjects readmit --config subjects.yaml --namespace default --subject-file person.txt --reason request-2 --by dpo --yes", nil, []string{""}},
		{"subjects show --output json", nil, []string{
			"--config subjects.yaml --namespace default --subject-file person.txt", "--config alone.yaml --namespace default --subject-file person.txt"}},
		{"subjects reapply-erasures --output json", nil, []string{"--config subjects.yaml plain.json"}},
	} {
		shape := newShape(what.open...)
		for _, rest := range what.lines {
			shape.add(t, s.do(t, what.command+" "+rest).stdout)
		}
		lines = append(lines, shape.facts("temporal-seal "+what.command)...)
	}
	s.stopScan(t, "state.json")
	state := newShape(scanned...)
	state.add(t, readFile(t, filepath.Join(s.dir, "state.json")))
	lines = append(lines, state.facts("the file of temporal-seal keys scan --state")...)
	listed := newShape()
	listed.add(t, s.candidate(t))
	lines = append(lines, listed.facts("GET /candidate of the admin listener")...)
	status, surveyed := newShape("survey.findings[].in_force"), newShape("findings[].in_force")
	texts, survey := statuses(t, s.upstream)
	for _, text := range texts {
		status.add(t, text)
	}
	surveyed.add(t, survey)
	lines = append(lines, status.facts("GET /status of the admin listener")...)
	lines = append(lines, surveyed.facts("GET /survey of the admin listener")...)
	s.do(t, "survey --config good.yaml --policy partial.rego --upstream $UPSTREAM --list-rate 100 --state survey.json")
	state = newShape("scan.namespaces", "scan.namespaces{}.walked", "survey.strata[].in_force", "survey.strata[].candidate", "survey.unread",
		"survey.strata[].root.members", "survey.strata[].root.any.elements.members")
	state.add(t, readFile(t, filepath.Join(s.dir, "survey.json")))
	lines = append(lines, state.facts("the file of temporal-seal survey --state")...)
	everyJSONCommand(t, lines)
	slices.Sort(lines)
	return lines
}

// everyJSONCommand fails for a command with --output that takeJSON does not run.
func everyJSONCommand(t *testing.T, facts []string) {
	t.Helper()
	for _, flag := range takeFlags(t) {
		command, found := strings.CutSuffix(flag, ": --output, -o, format, default text")
		always, isAlways := strings.CutSuffix(flag, ": --output, -o, format, default json")
		if isAlways { // it prints JSON without the flag, too
			command = always
		}
		if !found && !isAlways {
			if strings.Contains(flag, "--output") {
				t.Errorf("%s: this test does not know that form of --output", flag)
			}
			continue
		}
		runs := func(fact string) bool {
			return strings.HasPrefix(fact, command+" --output json: ") || isAlways && (strings.HasPrefix(fact, command+":") || strings.HasPrefix(fact, command+" --"))
		}
		if !slices.ContainsFunc(facts, runs) {
			t.Errorf("%s has --output, and takeJSON does not run it", command)
		}
	}
}
