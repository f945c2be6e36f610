package operator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// finding is a mistake that check has to report.
type finding struct {
	id, name string
	config   string
	files    map[string]string
	args     []string
	want     []string // parts of what it prints
	warning  bool     // the exit code is 0, and 1 with --strict
}

// show runs check and compares.
func (f *finding) show(t *testing.T) {
	t.Helper()
	scenario(t, f.id, f.name, func(s *site) {
		s.write("policy.rego", opening)
		for name, text := range f.files {
			s.write(name, text)
		}
		got := s.checked(f.config, f.args...)
		s.contains("check", got.all(), f.want...)
		if !f.warning {
			s.want(got.code == 1, "exit code %d, want 1:\n%s", got.code, got.all())
			return
		}
		s.want(got.code == 0, "exit code %d, want 0 for a warning:\n%s", got.code, got.all())
		s.contains("check", got.stdout, "warning: ")
		strict := s.checked(f.config, append([]string{"--strict"}, f.args...)...)
		s.want(strict.code == 1, "exit code %d with --strict, want 1", strict.code)
	})
}

// two is a config for two namespaces, each with a line of its own.
const two = `listeners:
  - address: 127.0.0.1:0
    callers: {anonymous: {namespaces: [orders, billing]}}
upstreams:
  - {namespaces: UPSTREAMS, address: "${frontend}"}
admin: 127.0.0.1:0
keys:
  - {name: default, namespaces: KEYS, active: "${key}"}
policy: {file: "${dir}/policy.rego", namespaces: "${dir}/namespaces"}
`

func withLists(upstreams, keys string) string {
	return strings.NewReplacer("UPSTREAMS", upstreams, "KEYS", keys).Replace(two)
}

const both = "[orders, billing]"

func TestCheckFindings(t *testing.T) {
	t.Parallel()
	team := "package temporal.namespaces[%q]\n\nrequest contains {\"action\": \"seal\"} if input.payload.kind == \"result\"\n"
	rules := func(namespace string) map[string]string {
		return map[string]string{"namespaces/" + namespace + ".rego": fmt.Sprintf(team, namespace)}
	}
	for _, f := range []finding{
		{id: "4.1", name: "a namespace that no key serves", config: withLists(both, "[orders]"), files: rules("orders"),
			want: []string{"proxy.yaml:3: ", "namespace billing has no default key"}},
		{id: "4.1", name: "a namespace with a wildcard key alone", config: strings.Replace(withLists(both, "[orders]"), "policy:",
			"  - {name: \"tenant-*\", active: \"awskms://alias/{1}?${kms}\"}\npolicy:", 1), files: rules("orders"),
			want: []string{"namespace billing has no default key"}},
		{id: "4.1", name: "a pattern of which some have no key", config: strings.Replace(withLists("[\"*\"]", "[orders, billing]"), "billing]}}", "\"*\"]}}", 1),
			files: rules("orders"), want: []string{"callers reach *, and only some of these namespaces have a default key"}, warning: true},
		{id: "4.2", name: "an alias that a policy needs", files: map[string]string{"namespaces/orders.rego": "package temporal.namespaces[\"orders\"]\n\n" +
			"request contains {\"action\": \"seal\", \"key\": \"tenant-acme\"} if input.payload.kind == \"result\"\n"},
			config: strings.Replace(withLists(both, both), "policy:", "  - {name: \"tenant-*\", active: \"awskms://alias/{1}?${kms}\"}\npolicy:", 1),
			want:   []string{"proxy.yaml:9: keys[1].active: key tenant-acme of namespace orders: ", "alias/acme", "NotFoundException"}},
		{id: "4.5", name: "a namespace that no upstream serves", config: withLists("[orders]", both), files: rules("orders"),
			want: []string{"proxy.yaml:3: ", "no upstream serves namespace billing"}},
		{id: "4.6", name: "a policy for a namespace that nobody reaches", config: withLists(both, both), files: rules("clinic"),
			want: []string{"clinic.rego: nothing serves namespace clinic"}, warning: true},
		{id: "4.7", name: "an upstream behind a pattern", config: strings.Replace(withLists("[\"*\"]", both), "admin:",
			"  - {namespaces: [billing], address: \"127.0.0.1:1\"}\nadmin:", 1), files: rules("orders"),
			want: []string{"proxy.yaml:6: upstreams[1].namespaces[0]: billing goes to upstreams[0], which comes first"}},
		{id: "4.7", name: "an upstream behind one for all", config: strings.Replace(withLists("[\"*\"]", both), "{namespaces: [\"*\"], address: \"${frontend}\"}",
			"{address: \"${frontend}\"}\n  - {namespaces: [billing], address: \"127.0.0.1:1\"}", 1), files: rules("orders"),
			want: []string{"proxy.yaml:6: upstreams[1].namespaces[0]: billing goes to upstreams[0], which comes first"}},
		{id: "4.7", name: "a key behind a wildcard", config: strings.Replace(withLists(both, both), "policy:",
			"  - {name: \"tenant-*\", active: \"awskms://alias/{1}?${kms}\"}\n  - {name: tenant-acme, active: \"${key}\"}\npolicy:", 1), files: rules("orders"),
			want: []string{"proxy.yaml:10: keys[2].name: tenant-acme is never used: keys[1] tenant-* comes first"}},
		{id: "4.8", name: "a folder below the namespaces' folder", config: withLists(both, both), files: map[string]string{
			"namespaces/team/orders.rego": fmt.Sprintf(team, "orders")}, want: []string{"namespaces/team: this folder is ignored"}, warning: true},
		{id: "4.8", name: "a file of another kind", config: withLists(both, both), files: map[string]string{
			"namespaces/orders.rego.bak": "x"}, want: []string{"orders.rego.bak: this file is ignored"}, warning: true},
		{id: "4.9", name: "no byte", config: "", want: []string{"proxy.yaml: the file is empty"}},
		{id: "4.9", name: "nothing but comments", config: "# keys:\n#   - {name: default}\n", want: []string{"the file is empty"}},
		{id: "4.10", name: "no response rule", config: small, files: map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"seal\"}\n"},
			want: []string{"policy.rego: no policy has a response rule, so nothing opens for anyone"}},
		{id: "4.10", name: "a response rule in some namespaces", config: withLists(both, both), files: map[string]string{
			"policy.rego": "package temporal\n", "namespaces/orders.rego": "package temporal.namespaces[\"orders\"]\n\nresponse contains {\"action\": \"open\"}\n"},
			want: []string{"nothing opens for anyone but in orders"}, warning: true},
		{id: "4.18", name: "in the platform's policy", config: small, files: map[string]string{"policy.rego": opening + "request contains {\"action\": \"seal\", \"key\": \"phi\"}\n"},
			want: []string{`policy.rego:5: key "phi" is not configured`}},
		{id: "4.18", name: "for one namespace", config: strings.Replace(withLists(both, both), "policy:",
			"  - {name: phi, namespaces: [orders], active: \"${key}\"}\npolicy:", 1), files: map[string]string{
			"policy.rego": opening + "request contains {\"action\": \"seal\", \"key\": \"phi\"}\n", "namespaces/orders.rego": fmt.Sprintf(team, "orders")},
			want: []string{`policy.rego:5: key "phi" is not configured for billing, where this rule always holds`}},
		{id: "4.19", name: "a name that is not full", config: small + "services: [AdminService]\n", want: []string{"proxy.yaml:7: services[0]: ", `"AdminService" is not the full name`}},
		{id: "4.19", name: "the server's own service", config: small + "services: [temporal.server.api.adminservice.v1.AdminService]\n",
			want: []string{"proxy.yaml:7: services[0]: ", "it is never forwarded"}},
		{id: "4.19", name: "a service that is rewritten", config: small + "services: [temporal.api.workflowservice.v1.WorkflowService]\n",
			want: []string{"proxy.yaml:7: services[0]: ", "always rewritten"}},
	} {
		f.show(t)
	}
}

func TestCheckDates(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	scenario(t, "4.3", "expired certificates of listeners, authorities, upstreams and the codec server", func(s *site) {
		s.certificate("old", time.Now().Add(-2*day), time.Now().Add(-day))
		s.certificate("young", time.Now().Add(day), time.Now().Add(2*day))
		s.certificate("good", time.Now().Add(-day), time.Now().Add(60*day))
		got := s.checked(`listeners:
  - name: a
    address: 127.0.0.1:0
    tls: {cert_file: "${dir}/old.crt", key_file: "${dir}/old.key"}
  - name: b
    address: 127.0.0.1:0
    tls: {cert_file: "${dir}/good.crt", key_file: "${dir}/good.key"}
    callers: {mtls: {ca_file: "${dir}/old.crt", names: [{name: "*"}]}}
upstreams:
  - address: localhost:7233
    tls: {cert_file: "${dir}/young.crt", key_file: "${dir}/young.key", ca_file: "${dir}/good.crt"}
codec_server: {address: "127.0.0.1:0", tls: {cert_file: "${dir}/old.crt", key_file: "${dir}/old.key"}}
keys: [{name: default, active: "${key}"}]
`)
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.stderr, "proxy.yaml:4: listeners[0].tls.cert_file: ${dir}/old.crt: the certificate expired on ",
			"proxy.yaml:8: listeners[1].callers.mtls.ca_file: ${dir}/old.crt: the authority CN=old expired on ",
			"proxy.yaml:11: upstreams[0].tls.cert_file: ${dir}/young.crt: the certificate is not valid before ",
			"proxy.yaml:12: codec_server.tls.cert_file: ${dir}/old.crt: the certificate expired on ")
	})
	scenario(t, "4.3", "a certificate that expires soon", func(s *site) {
		s.certificate("soon", time.Now().Add(-day), time.Now().Add(3*day))
		config := `
listeners: [{address: "127.0.0.1:0", tls: {cert_file: "${dir}/soon.crt", key_file: "${dir}/soon.key"}}]
keys: [{name: default, active: "${key}"}]
`
		got := s.checked(config)
		s.want(got.code == 0, "exit code %d: %s", got.code, got.all())
		s.contains("check", got.stdout, "warning: ", "the certificate expires on ")
		s.want(s.checked(config, "--strict").code == 1, "--strict takes it")
	})
}

func TestCheckConnect(t *testing.T) {
	t.Parallel()
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/html":
			fmt.Fprintln(w, "<!DOCTYPE html><html><body>Log in</body></html>")
		case "/good":
			fmt.Fprintln(w, `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(issuer.Close)
	config := `listeners:
  - name: a
    address: 127.0.0.1:0
    callers: {jwt: {issuer: i, audience: a, namespaces: [orders], jwks_url: "URL"}}
upstreams: [{address: "FRONTEND"}]
keys: [{name: default, active: "${key}"}]
`
	with := func(url, frontend string) string {
		return strings.NewReplacer("URL", url, "FRONTEND", frontend).Replace(config)
	}
	for name, tt := range map[string]struct {
		url, frontend string
		want          []string
	}{
		"an HTML page":        {issuer.URL + "/html", "${frontend}", []string{"proxy.yaml:4: listeners[0].callers.jwt.jwks_url: ", "not a JSON Web Key Set"}},
		"an answer of 404":    {issuer.URL + "/gone", "${frontend}", []string{"proxy.yaml:4: listeners[0].callers.jwt.jwks_url: ", "404"}},
		"nobody":              {"http://127.0.0.1:1/keys", "${frontend}", []string{"proxy.yaml:4: listeners[0].callers.jwt.jwks_url: ", "connection refused"}},
		"a dead upstream":     {issuer.URL + "/good", "127.0.0.1:1", []string{"proxy.yaml:5: upstreams[0].address: upstream 127.0.0.1:1 does not answer"}},
		"both, in one report": {issuer.URL + "/html", "127.0.0.1:1", []string{"not a JSON Web Key Set", "upstream 127.0.0.1:1 does not answer"}},
	} {
		scenario(t, "4.4", name, func(s *site) {
			got := s.checked(with(tt.url, tt.frontend), "--connect", "--timeout", "3s")
			s.want(got.code == 1, "exit code %d", got.code)
			s.contains("check", got.stderr, tt.want...)
			without := s.checked(with(tt.url, tt.frontend))
			s.want(without.code == 0, "exit code %d without --connect: %s", without.code, without.all())
		})
	}
	scenario(t, "4.4", "all answer", func(s *site) {
		got := s.checked(with(issuer.URL+"/good", "${temporal}"), "--connect", "--timeout", "5s")
		s.want(got.code == 0, "exit code %d: %s", got.code, got.all())
		s.contains("check", got.stdout, "connect ok  1 upstream, 1 key set of issuers")
	})
}

func TestCheckTogether(t *testing.T) {
	t.Parallel()
	scenario(t, "4.13", "a config, two keys and two policies with errors", func(s *site) {
		s.write("policy.rego", opening+misspelled["kind"][0]+"\n")
		s.write("namespaces/orders.rego", "package temporal.namespaces[\"orders\"]\n\nrequest contains {\"action\": \"seal\", \"key\": \"fhi\"} if input.payload.kind == \"memo\"\n")
		got := s.checked(`listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: nowhere}]
unknown_fields: loose
keys:
  - {name: phi, active: "awskms://alias/gone?${kms}"}
  - {name: default, active: "awskms://alias/away?${kms}"}
policy: {file: "${dir}/policy.rego", namespaces: "${dir}/namespaces"}
`)
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), "proxy.yaml:2: upstreams[0].address: ", "proxy.yaml:3: unknown_fields: ",
			"proxy.yaml:5: keys[0].active: ", "alias/gone", "proxy.yaml:6: keys[1].active: ", "alias/away",
			`policy.rego:5: "resutl" is not a kind of payload`, `orders.rego:3: key "fhi" is not configured for namespace "orders"`)
	})
	scenario(t, "4.13", "a key of the config that does not exist, beside a policy with an error", func(s *site) {
		s.write("policy.rego", opening+misspelled["kind"][0]+"\n")
		got := s.checked(small + "shadwo: true\n")
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), "proxy.yaml:7: shadwo: unknown key", `policy.rego:5: "resutl" is not a kind of payload`)
	})
	scenario(t, "4.13", "the same in JSON", func(s *site) {
		s.write("policy.rego", opening+misspelled["kind"][0]+"\n")
		got := s.checked(small+"unknown_fields: loose\n", "--output", "json")
		var out struct {
			OK     bool
			Errors []string
			Policy struct {
				Findings []struct{ Level, Where, Text string }
			}
		}
		s.ok(json.Unmarshal([]byte(got.stdout), &out))
		s.want(got.code == 1 && !out.OK && len(out.Errors) == 1 && len(out.Policy.Findings) > 0 && got.stderr == "", "%+v, exit code %d, %s", out, got.code, got.stderr)
	})
}

func TestCheckKeys(t *testing.T) {
	t.Parallel()
	const many = `listeners: [{address: "127.0.0.1:0"}]
keys:
  - {name: slow, active: "awskms://alias/slow?region=eu-central-1&endpoint=SLOW"}
  - {name: default, active: "${key}"}
  - {name: other, active: "awskms://alias/other?${kms}"}
`
	scenario(t, "4.14", "one key service that hangs among others", func(s *site) {
		hanging := kmsstub.New(kmsstub.Options{})
		s.ok(hanging.Start("127.0.0.1:0"))
		s.Cleanup(hanging.Close)
		hanging.Always("", kmsstub.Fault{Hang: true})
		s.kms.SetAlias("alias/other", s.kms.CreateKey(false))
		began := time.Now()
		got := s.checked(strings.ReplaceAll(many, "SLOW", hanging.URL), "--timeout", "2s")
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.stderr, "proxy.yaml:3: keys[0].active: ", "alias/slow")
		s.lacks("check", got.stderr, "keys[1]", "keys[2]")
		s.want(time.Since(began) < 15*time.Second, "it took %s", time.Since(began))
	})
	scenario(t, "4.14", "many key services that hang take the time of one", func(s *site) {
		hanging := kmsstub.New(kmsstub.Options{})
		s.ok(hanging.Start("127.0.0.1:0"))
		s.Cleanup(hanging.Close)
		hanging.Always("", kmsstub.Fault{Hang: true})
		text := "listeners: [{address: \"127.0.0.1:0\"}]\nkeys:\n"
		for i := range 6 {
			text += fmt.Sprintf("  - {name: k%d, active: \"awskms://alias/k%d?region=eu-central-1&endpoint=%s\"}\n", i, i, hanging.URL)
		}
		began := time.Now()
		got := s.checked(text, "--timeout", "2s")
		s.want(strings.Count(got.stderr, "temporal-seal: ") == 6, "%s", got.stderr)
		s.want(time.Since(began) < 10*time.Second, "it took %s", time.Since(began))
	})
	scenario(t, "4.15", "keys, upstreams and issuers that do not answer", func(s *site) {
		s.write("policy.rego", opening)
		s.kms.ResetCalls()
		got := s.checked(`listeners:
  - address: 127.0.0.1:0
    callers: {jwt: {issuer: i, audience: a, namespaces: [orders], jwks_url: "http://127.0.0.1:1/keys"}}
upstreams: [{address: "127.0.0.1:1"}]
keys: [{name: default, active: "${key}"}, {name: gone, active: "awskms://alias/gone?${kms}"}]
policy: {file: "${dir}/policy.rego"}
`, "--offline")
		s.want(got.code == 0, "exit code %d: %s", got.code, got.all())
		s.contains("check", got.stdout, "keys    not checked")
		s.want(len(s.kms.Calls()) == 0, "KMS was asked: %v", s.kms.Calls())
	})
	scenario(t, "4.15", "errors of config and policy are found", func(s *site) {
		s.write("policy.rego", opening+misspelled["method"][0]+"\n")
		got := s.checked(small+"unknown_fields: loose\n", "--offline")
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), "unknown_fields", "StartWorkflowExectuion")
	})
}

func TestCheckNamespaces(t *testing.T) {
	t.Parallel()
	scenario(t, "4.16", "a team's folder without the installation's config", func(s *site) {
		s.write("team/orders.rego", "package temporal.namespaces[\"orders\"]\n\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"} if input.payload.kind == \"memo\"\n")
		good := s.run("check", "--offline", "--namespaces", "team")
		s.want(good.code == 0, "exit code %d: %s", good.code, good.all())
		s.write("team/orders.rego", "package temporal.namespaces[\"orders\"]\n\nrequest contains {\"action\": \"pass\"} if input.payload.kind == \"memmo\"\n")
		bad := s.run("check", "--offline", "--namespaces", "team")
		s.want(bad.code == 1, "exit code %d", bad.code)
		s.contains("check", bad.all(), `orders.rego:3: "memmo" is not a kind of payload`)
	})
	scenario(t, "4.16", "a folder in place of the config's", func(s *site) {
		s.write("policy.rego", opening)
		s.write("team/orders.rego", "package temporal.namespaces[\"orders\"]\n\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"} if input.payload.kind == \"memo\"\n")
		got := s.checked(small, "--offline", "--namespaces", filepath.Join(s.dir, "team"))
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), `orders.rego:3: key "phi" is not configured for namespace "orders"`)
		none := s.checked(small, "--offline", "--namespaces", filepath.Join(s.dir, "none"))
		s.want(none.code == 1, "a folder that does not exist: exit code %d", none.code)
	})
	scenario(t, "4.17", "a policy with a warning", func(s *site) {
		s.write("policy.rego", opening+"response contains {\"action\": \"deny\"} if input.content.size > 5\n")
		lenient, strict := s.checked(small), s.checked(small, "--strict")
		s.want(lenient.code == 0 && strict.code == 1, "exit codes %d and %d", lenient.code, strict.code)
		s.contains("check", lenient.stdout, "warning: ")
	})
	scenario(t, "4.17", "without warnings", func(s *site) {
		s.write("policy.rego", opening)
		got := s.checked(small, "--strict")
		s.want(got.code == 0, "exit code %d: %s", got.code, got.all())
	})
}

func TestDefaultKey(t *testing.T) {
	t.Parallel()
	scenario(t, "5.1", "check names it", func(s *site) {
		s.write("policy.rego", opening)
		got := s.checked(small)
		s.contains("check", got.stdout, "the default key, which seals where a rule names none, is default in every namespace")
		s.kms.SetAlias("alias/orders", s.kms.CreateKey(false))
		got = s.checked(`listeners: [{address: "127.0.0.1:0"}]
keys:
  - {name: phi, namespaces: [orders], active: "awskms://alias/orders?${kms}"}
  - {name: plain, active: "${key}"}
`)
		s.contains("check", got.stdout, "is phi in namespace orders, plain in all others")
	})
	scenario(t, "5.1", "the documents name it", func(s *site) {
		const sentence = "The default key of a namespace is the entry named `default` that serves it, or else the first entry that serves it and has no `*` in its name."
		for _, name := range []string{"docs/keys.md", "docs/configuration.md"} {
			text, err := os.ReadFile(filepath.Join("..", "..", name))
			s.ok(err)
			s.contains(name, strings.Join(strings.Fields(string(text)), " "), sentence)
		}
	})
	scenario(t, "5.3", "a namespace that callers reach", func(s *site) {
		s.write("policy.rego", opening)
		s.ok(os.MkdirAll(filepath.Join(s.dir, "namespaces"), 0o755))
		p := s.serve(withLists(both, "[orders]"))
		p.awaitLog("a namespace that callers reach has no default key: its workers get no tasks; add it to an entry in keys", "namespace", "billing")
	})
}

// perNamespace has a key for each namespace.
const perNamespace = `listeners:
  - address: 127.0.0.1:0
    callers: {anonymous: {namespaces: [orders, billing]}}
upstreams: [{address: "${temporal}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "URI"}]
`

// sealsApart runs a workflow in each of two namespaces and requires that each used a key of its own.
func (s *site) sealsApart(uri string) {
	s.Helper()
	p := s.serve(strings.ReplaceAll(perNamespace, "URI", uri))
	for _, namespace := range []string{"orders", "billing"} {
		c := s.client(p.address, namespace)
		s.work(c, func(r worker.Registry) {
			r.RegisterWorkflowWithOptions(func(_ workflow.Context, text string) (string, error) { return text + "!", nil },
				workflow.RegisterOptions{Name: "Echo"})
		})
		var got string
		s.ok(s.start(c, "", "Echo", "hello").Get(s.Context(), &got))
		s.want(got == "hello!", "%s returned %q", namespace, got)
	}
	_, page := p.get("/metrics")
	keks := map[string]bool{}
	for _, m := range regexp.MustCompile(`temporal_seal_key_payloads_total\{action="sealed",kek="([0-9a-f]{16})"[^}]*\} [1-9]`).FindAllStringSubmatch(page, -1) {
		keks[m[1]] = true
	}
	s.want(len(keks) == 2, "payloads were sealed under %d key encryption keys, want 2", len(keks))
}

func TestKeysOfNamespaces(t *testing.T) {
	t.Parallel()
	scenario(t, "5.2", "AWS KMS", func(s *site) {
		s.kms.SetAlias("alias/orders", s.kms.CreateKey(false))
		s.kms.SetAlias("alias/billing", s.kms.CreateKey(false))
		s.sealsApart("awskms://alias/{namespace}?${kms}")
	})
	scenario(t, "5.2", "local files", func(s *site) {
		for _, namespace := range []string{"orders", "billing"} {
			s.want(s.run("keys", "new", filepath.Join(s.dir, namespace+".key")).code == 0, "keys new")
		}
		s.sealsApart("local:${dir}/{namespace}.key")
	})
	scenario(t, "5.2", "Vault", func(s *site) {
		vault := httptest.NewServer(transit{})
		s.Cleanup(vault.Close)
		s.write("vault.token", "token")
		s.sealsApart("vault://" + strings.TrimPrefix(vault.URL, "http://") + "/transit/{namespace}?token_file=${dir}/vault.token&tls=off")
	})
	scenario(t, "5.2", "check asks the key of each namespace", func(s *site) {
		s.kms.SetAlias("alias/orders", s.kms.CreateKey(false))
		got := s.checked(strings.ReplaceAll(perNamespace, "URI", "awskms://alias/{namespace}?${kms}"))
		s.want(got.code == 1, "exit code %d: %s", got.code, got.all())
		s.contains("check", got.stderr, "proxy.yaml:6: keys[0].active: key default of namespace billing: ", "alias/billing")
		s.lacks("check", got.stderr, "alias/orders")
	})
	scenario(t, "5.2", "a namespace whose name may not stand in a URI", func(s *site) {
		got := s.checked(strings.NewReplacer("URI", "awskms://alias/{namespace}?${kms}", "billing", `"a/../b"`).Replace(perNamespace))
		s.want(got.code == 1, "exit code %d: %s", got.code, got.all())
		s.contains("check", got.stderr, "namespace a/../b has no default key")
	})
}

// transit answers as the transit engine of Vault does, for the keys orders and billing. It binds associated data by writing it
// into the ciphertext, which keeps nothing secret.
type transit struct{}

func (transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}})
	}
	answer := func(data any) { _ = json.NewEncoder(w).Encode(map[string]any{"data": data}) }
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	if len(path) != 2 || path[1] != "orders" && path[1] != "billing" {
		refuse(http.StatusNotFound, "no handler for route")
		return
	}
	if path[0] == "keys" {
		answer(map[string]any{"type": "aes256-gcm96"})
		return
	}
	var in map[string]string
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(http.StatusBadRequest, "no JSON")
		return
	}
	switch own := path[1] + "," + in["associated_data"] + "|"; path[0] {
	case "encrypt":
		answer(map[string]any{"ciphertext": "vault:v1:" + own + in["plaintext"]})
	case "decrypt":
		plain, ok := strings.CutPrefix(in["ciphertext"], "vault:v1:"+own)
		if !ok {
			refuse(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		answer(map[string]any{"plaintext": plain})
	}
}
