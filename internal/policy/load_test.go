package policy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRefusedSources are files that may not become a policy, with the errors that their authors read.
func TestRefusedSources(t *testing.T) {
	const good = "package temporal\n\nrequest contains {\"action\": \"pass\"}\n"
	for name, tt := range map[string]struct {
		platform, team string // the team's is team.rego
		want           []string
	}{
		"no Rego":                    {platform: "package temporal\n\nrequest contains {", want: []string{"policy.rego:3"}},
		"empty":                      {platform: " ", want: []string{"policy.rego:1", "`package temporal`"}},
		"not strict":                 {platform: "package temporal\n\nimport data.temporal.x\n\nrequest contains {\"action\": \"pass\"}\n", want: []string{"policy.rego:3", "unused"}},
		"another package":            {team: "package temporal.namespaces.other\n", want: []string{"team.rego:1", "may contain package temporal.namespaces.team alone"}},
		"the platform's package":     {team: "package temporal\n\nrequest contains {\"action\": \"pass\"}\n", want: []string{"team.rego:1", "may contain package temporal.namespaces.team alone"}},
		"a team's as the platform's": {platform: "package temporal.namespaces.team\n", want: []string{"policy.rego:1", "may contain package temporal alone,"}},
		"one value":                  {team: "package temporal.namespaces.team\n\nrequest := {{\"action\": \"pass\"}}\n", want: []string{"team.rego:3", "must be a set"}},
		"an object":                  {team: "package temporal.namespaces.team\n\nresponse[\"x\"] := 1\n", want: []string{"team.rego:3", "must be a set"}},
		"a function":                 {team: "package temporal.namespaces.team\n\nrequest(x) := x\n", want: []string{"team.rego:3", "must be a set"}},
		"a default":                  {team: "package temporal.namespaces.team\n\ndefault request := set()\n", want: []string{"team.rego:3", "must be a set"}},
		"a set within":               {team: "package temporal.namespaces.team\n\nrequest.more contains 1\n", want: []string{"team.rego:3", "must be a set"}},
		"platform defines a team's":  {platform: "package temporal\n\nnamespaces.team.request contains {\"action\": \"pass\"}\n", want: []string{"policy.rego:3", "may not define `namespaces`"}},
		"platform reads a team's":    {platform: "package temporal\n\nrequest contains v if some v in data.temporal.namespaces[input.namespace].request\n", want: []string{"policy.rego:3", "out of reach"}},
		"a team reads another's":     {team: "package temporal.namespaces.team\n\nrequest contains v if some v in data.temporal.namespaces.other.request\n", want: []string{"team.rego:3", "out of reach"}},
		"a team reads all data":      {team: "package temporal.namespaces.team\n\nrequest contains v if some v in data[input.namespace]\n", want: []string{"team.rego:3", "may be recursive"}},
		"a misspelt reference":       {team: "package temporal.namespaces.team\n\nrequest contains {\"action\": \"seal\"} if input.payload.knd == \"memo\"\n", want: []string{"team.rego:3", "input.payload.knd is not part of the input"}},
		"network":                    {platform: "package temporal\n\nrequest contains v if some v in http.send({\"method\": \"get\", \"url\": \"http://x\"}).body\n", want: []string{"policy.rego:3", "http.send"}},
		"environment":                {platform: "package temporal\n\nrequest contains {\"action\": \"seal\", \"key\": opa.runtime().env.KEY}\n", want: []string{"policy.rego:3", "opa.runtime"}},
		"clock":                      {platform: "package temporal\n\nrequest contains {\"action\": \"pass\"} if time.now_ns() > 0\n", want: []string{"policy.rego:3", "time.now_ns; policies have no functions of time"}},
		"chance":                     {platform: "package temporal\n\nrequest contains {\"action\": \"pass\"} if rand.intn(\"x\", 2) == 0\n", want: []string{"policy.rego:3", "rand.intn"}},
		"token against the clock":    {platform: "package temporal\n\nrequest contains {\"action\": \"pass\"} if io.jwt.decode_verify(\"x\", {})[0]\n", want: []string{"policy.rego:3", "io.jwt.decode_verify"}},
		"name resolution":            {platform: "package temporal\n\nrequest contains {\"action\": \"pass\"} if net.lookup_ip_addr(\"x\")\n", want: []string{"policy.rego:3", "net.lookup_ip_addr"}},
		"a verdict of no kind":       {team: "package temporal.namespaces.team\n\nrequest contains {\"action\": \"encrypt\"}\n", want: []string{"team.rego:3", `"encrypt" is not an action of a request`}},
		"a rule that breaks off":     {platform: "package temporal\n\nf(x) := 1 if x\nf(x) := 2 if x\n\nrequest contains {\"action\": \"pass\"} if f(true) == 1\n", want: []string{"policy.rego:", "two different values"}},
		"a key it may not use":       {team: "package temporal.namespaces.team\n\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"} if input.payload.name == \"x\"\n", want: []string{"team.rego:3", `key "phi" is not configured`}},
		"a helper that is not there": {platform: "package temporal\n\nimport data.temporal\n\nrequest contains {\"action\": \"pass\"} if temporal.is_user(input.caller)\n", want: []string{"policy.rego:5", "copy is_user from the shipped policy"}},
		"a missing import":           {platform: "package temporal\n\nrequest contains {\"action\": \"pass\"} if temporal.is_user(input.caller)\n", want: []string{"policy.rego:3", "`import data.temporal`"}},
		"a function of nobody's":     {platform: "package temporal\n\nrequest contains {\"action\": \"pass\"} if is_user(input.caller)\n", want: []string{"policy.rego:3", "define it in this file"}},
		"all faults at once":         {platform: "package temporal\n\nrequest := 1\n", team: "package other\n", want: []string{"policy.rego:3", "team.rego:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"policy.rego": good}
			if tt.platform != "" {
				files["policy.rego"] = tt.platform
			}
			if tt.team != "" {
				files["team.rego"] = tt.team
			}
			_, err := load(t, files, ranked("default"))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("loaded, or no *Error: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestSources(t *testing.T) {
	opts := options(t, map[string]string{
		"policy.rego":       floor,
		"saas.a1b2c.rego":   "package temporal.namespaces[\"saas.a1b2c\"]\n",
		"other_test.rego":   "package anything.goes.here\n",
		".hidden.rego":      "package no\n",
		"README.md":         "# no policy",
		"upper-Case_1.rego": "package temporal.namespaces[\"upper-Case_1\"]\n",
	})
	p, err := Load(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Namespaces(), " "); got != "saas.a1b2c upper-Case_1" {
		t.Errorf("namespaces with rules: %s", got)
	}
	same, err := Load(context.Background(), opts)
	if err != nil || same.Revision() != p.Revision() || len(p.Revision()) != 12 {
		t.Errorf("revisions %s and %s of the same sources, %v", p.Revision(), same.Revision(), err)
	}
	write(t, filepath.Join(opts.Namespaces, "upper-Case_1.rego"), "package temporal.namespaces[\"upper-Case_1\"]\n\nx := 1\n")
	if other, err := Load(context.Background(), opts); err != nil || other.Revision() == p.Revision() {
		t.Errorf("a changed file kept the revision: %v", err)
	}
	for name, change := range map[string]func(*Options){
		"platform":   func(o *Options) { o.File += ".gone" },
		"namespaces": func(o *Options) { o.Namespaces += ".gone" },
	} {
		broken := opts
		change(&broken)
		if _, err := Load(context.Background(), broken); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestShippedPolicy(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "policy.rego"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Load(context.Background(), Options{Shipped: text})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds() {
		want := Seal
		if kind == KindSearchAttribute || readable(kind) {
			want = Pass
		}
		in := &Input{Namespace: "n", Kind: kind, Name: "x", Encoding: "json/plain", Data: []byte(`"plain"`)}
		if v := decide(t, p, Request, in); v.Action != want || v.Weakened {
			t.Errorf("%s: %s", kind, v)
		}
		in.Sealed.Namespace = "n"
		if v := decide(t, p, Response, in); v.Action != Open {
			t.Errorf("response %s: %s", kind, v)
		}
		in.Sealed.Namespace = "m"
		if v := decide(t, p, Response, in); v.Action != Deny {
			t.Errorf("response %s of another namespace: %s", kind, v)
		}
	}
}
