package policy

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// load writes policy files into a folder and loads them: "policy.rego" is the
// platform's, everything else a namespace's.
func load(t testing.TB, files map[string]string, change ...func(*Options)) (*Policy, error) {
	t.Helper()
	return Load(context.Background(), options(t, files, change...))
}

func options(t testing.TB, files map[string]string, change ...func(*Options)) Options {
	t.Helper()
	dir := t.TempDir()
	opts := Options{File: filepath.Join(dir, "policy.rego"), Namespaces: filepath.Join(dir, "namespaces")}
	if err := os.Mkdir(opts.Namespaces, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok := files["policy.rego"]; !ok {
		write(t, opts.File, "package temporal\n")
	}
	for name, text := range files {
		if name == "policy.rego" {
			write(t, opts.File, text)
		} else {
			write(t, filepath.Join(opts.Namespaces, name), text)
		}
	}
	for _, c := range change {
		c(&opts)
	}
	return opts
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustLoad(t testing.TB, files map[string]string, change ...func(*Options)) *Policy {
	t.Helper()
	p, err := load(t, files, change...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ranked makes KeyRank and DefaultKey of a list of names, the most sensitive first;
// the last is the default.
func ranked(names ...string) func(*Options) {
	return func(o *Options) {
		o.KeyRank = func(_, key string) (int, bool) {
			for i, n := range names {
				if n == key || (strings.HasSuffix(n, "*") && strings.HasPrefix(key, strings.TrimSuffix(n, "*"))) {
					return i, true
				}
			}
			return 0, false
		}
		o.DefaultKey = func(string) (string, bool) { return names[len(names)-1], true }
	}
}

func decide(t testing.TB, p *Policy, d Direction, in *Input) Verdict {
	t.Helper()
	v, err := p.Decide(context.Background(), d, in)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const clinicTeam = `package temporal.namespaces["clinic"]

import data.temporal

request contains {"action": "pass"}

request contains {"action": "seal", "key": "phi"} if input.activity.type in {"Scan", "Lab"}

request contains {"action": "seal", "key": "jwt"} if {
	input.payload.kind == "input"
	input.workflow.type == "Admission"
	walk(input.content.json, [_, v])
	temporal.is_token(v)
}
`

const floor = `package temporal

request contains {"action": "seal"} if {
	input.payload.kind == "header"
	lower(input.payload.name) == "authorization"
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace

is_token(x) if {
	is_string(x)
	regex.match("^eyJ[A-Za-z0-9_-]+[.]eyJ[A-Za-z0-9_-]+[.]", x)
}
`

func TestStory(t *testing.T) {
	p := mustLoad(t, map[string]string{"policy.rego": floor, "clinic.rego": clinicTeam}, ranked("phi", "jwt", "default"))
	start := Input{
		Namespace: "clinic", RPC: "StartWorkflowExecution", Kind: KindInput, Encoding: "json/plain",
		WorkflowType: "Admission", Known: FactWorkflowType, NotApplicable: FactActivityID | FactActivityType,
	}
	for name, tt := range map[string]struct {
		change func(*Input)
		action Action
		key    string
	}{
		"token deep inside":     {func(in *Input) { in.Data = []byte(`{"u":[{"t":"eyJh.eyJi.c"}]}`) }, Seal, "jwt"},
		"no token":              {func(in *Input) { in.Data = []byte(`{"bed":7}`) }, Pass, ""},
		"another workflow":      {func(in *Input) { in.WorkflowType = "Mail" }, Pass, ""},
		"credential header":     {func(in *Input) { in.Kind, in.Name = KindHeader, "Authorization" }, Seal, "default"},
		"another header":        {func(in *Input) { in.Kind, in.Name = KindHeader, "tracer" }, Pass, ""},
		"phi activity":          {func(in *Input) { in.Kind, in.ActivityType, in.Known, in.NotApplicable = KindResult, "Lab", AllFacts, 0 }, Seal, "phi"},
		"no policy, no clue":    {func(in *Input) { in.Namespace = "other" }, Seal, "default"},
		"not JSON at all":       {func(in *Input) { in.Data = []byte(`{"bed"`) }, Seal, "default"},
		"name twice":            {func(in *Input) { in.Data = []byte(`{"a":"eyJh.eyJi.c","a":1}`) }, Seal, "default"},
		"other encoding":        {func(in *Input) { in.Encoding = "binary/plain" }, Seal, "default"},
		"type of activity gone": {func(in *Input) { in.Kind, in.Known, in.NotApplicable = KindResult, 0, 0 }, Seal, "default"},
	} {
		t.Run(name, func(t *testing.T) {
			in := start
			in.Data = []byte(`{}`)
			tt.change(&in)
			for range 2 { // the second from the cache, where there is one
				v := decide(t, p, Request, &in)
				if v.Action != tt.action || v.Key != tt.key {
					t.Fatalf("got %s %q, want %s %q (%+v)", v.Action, v.Key, tt.action, tt.key, v)
				}
			}
		})
	}
}

func TestNamedKeys(t *testing.T) {
	p := mustLoad(t, map[string]string{
		"policy.rego": "package temporal\n\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"} if input.payload.kind == \"result\"\n\nrequest contains {\"action\": \"seal\", \"key\": input.workflow.type}\n",
		"clinic.rego": "package temporal.namespaces.clinic\n\nrequest contains {\"action\": \"seal\", \"key\": \"tokens\"}\n\nresponse contains {\"action\": \"open\"}\n",
	}, ranked("phi", "tokens", "default"))
	for namespace, want := range map[string][]string{"clinic": {"phi", "tokens"}, "billing": {"phi"}} {
		if got := p.NamedKeys(namespace); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", namespace, got, want)
		}
	}
}
