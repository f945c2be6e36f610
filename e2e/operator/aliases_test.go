package operator

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

const oneAlias = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
`

// arn is that of a key of the KMS stub.
func arn(id string) string { return "arn:aws:kms:eu-central-1:111122223333:key/" + id }

// sealVia seals a payload through a proxy.
func (s *site) sealVia(p *proxy, namespace string) *commonpb.Payload {
	s.Helper()
	c, err := blackbox.Dial(p.address)
	s.ok(err)
	defer c.Close()
	sealed, err := s.frontend().Seal(s.Context(), c, namespace, "", []*commonpb.Payload{
		{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"CANARY"`)}})
	s.ok(err)
	return sealed[0]
}

// opens reports whether a proxy opens a payload.
func (s *site) opens(p *proxy, namespace string, sealed *commonpb.Payload) bool {
	s.Helper()
	c, err := blackbox.Dial(p.address)
	s.ok(err)
	defer c.Close()
	opened, err := s.frontend().Open(s.Context(), c, namespace, "", []*commonpb.Payload{sealed})
	return err == nil && string(opened[0].GetData()) == `"CANARY"`
}

func TestAliases(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"2.1", "2.3", "2.4"} {
		scenario(t, id, "update-alias beside a running replica and one that starts later", func(s *site) {
			first, second := s.kms.CreateKey(false), s.kms.CreateKey(false)
			s.kms.SetAlias("alias/default", first)
			running := s.serve(oneAlias)
			sealed := s.sealVia(running, "orders")
			n, found := running.metric("temporal_seal_key_alias_moved", "key", "default")
			s.want(found && n == 0, "temporal_seal_key_alias_moved is %v, found %v", n, found)
			s.kms.SetAlias("alias/default", second)
			running.signal(syscall.SIGHUP)
			line := running.awaitLog("an alias names another key now: a replica that starts later does not open what the earlier key sealed. "+
				"Add the earlier key's ARN to open_only of the entry", "key", "default", "before", arn(first), "now", arn(second))
			s.contains("the line", fmt.Sprint(line["uri"]), "alias/default")
			n, _ = running.metric("temporal_seal_key_alias_moved", "key", "default")
			s.want(n == 1, "temporal_seal_key_alias_moved is %v", n)
			_, page := running.get("/readyz")
			s.contains("/readyz", page, "alias moved", arn(first), arn(second), "open_only")
			s.want(s.opens(running, "orders", sealed), "the running replica does not open what it has sealed")
			later := s.serve(oneAlias)
			s.want(!s.opens(later, "orders", sealed), "a replica that started later opens what a key sealed that it cannot know")
			repaired := strings.Replace(oneAlias, `"${key}"`, `"${key}", open_only: ["awskms://`+arn(first)+`?${kms}"]`, 1)
			running.reconfigure(repaired)
			later.reconfigure(repaired)
			for _, p := range []*proxy{running, later, s.serve(repaired)} {
				s.eventually(func() error {
					if n, _ := p.metric("temporal_seal_key_alias_moved", "key", "default"); n != 0 || !s.opens(p, "orders", sealed) {
						return fmt.Errorf("with the earlier ARN under open_only: moved is %v, and it opens: %v", n, s.opens(p, "orders", sealed))
					}
					return nil
				})
			}
		})
	}
	scenario(t, "2.2", "/keys, /readyz, metrics and keys list", func(s *site) {
		first := s.kms.CreateKey(false)
		s.kms.SetAlias("alias/default", first)
		p := s.serve(oneAlias)
		s.sealVia(p, "orders")
		for _, page := range []string{"/keys", "/readyz", "/metrics"} {
			_, text := p.get(page)
			s.contains(page, text, arn(first))
		}
		_, found := p.metric("temporal_seal_key_info", "key", "default", "role", "active", "arn", arn(first))
		s.want(found, "temporal_seal_key_info does not name the ARN")
		s.contains("keys list", s.run("keys", "list", "--config", p.config).stdout, arn(first))
		s.contains("keys list --running", s.run("keys", "list", "--config", p.config, "--running", "--admin", p.admin).stdout, arn(first))
	})
	scenario(t, "2.5", "check names the ARN behind each alias", func(s *site) {
		first := s.kms.CreateKey(false)
		s.kms.SetAlias("alias/default", first)
		got := s.checked(strings.Replace(oneAlias, "${frontend}", "127.0.0.1:7233", 1))
		s.contains("check", got.all(), "keys[0].active", arn(first))
	})
	scenario(t, "2.7", "of a whole ARN without KMS, and of an alias", func(s *site) {
		first := s.kms.CreateKey(false)
		s.kms.SetAlias("alias/default", first)
		var list []struct{ KEK string }
		s.ok(json.Unmarshal([]byte(s.run("keys", "list", "--key", "${key}", "--output", "json").stdout), &list))
		want := list[0].KEK + "  " + arn(first) + "\n"
		calls := len(s.kms.Calls())
		for _, name := range []string{arn(first), "awskms://" + arn(first) + "?${kms}"} {
			got := s.run("keys", "reference", name)
			s.want(got.stdout == want, "%s: %+v, want %s", name, got, want)
		}
		s.want(len(s.kms.Calls()) == calls, "KMS was asked for the reference of an ARN")
		s.want(s.run("keys", "reference", "${key}").stdout == want, "the reference of the alias is another one")
		s.want(s.run("keys", "reference", "awskms://alias/none?${kms}").code == 1, "an alias that does not exist has a reference")
	})
	scenario(t, "2.8", "no entry of an example seals with an alias alone", func(s *site) {
		alias := regexp.MustCompile(`(active|open_only): *\[?"?awskms://alias/[^{\s]*(\s|$)`)
		for _, file := range []string{"README.md", "docs/keys.md", "docs/operations.md", "deploy/helm/temporal-seal/values.yaml"} {
			if found := alias.FindString(repositoryFile(s, file)); found != "" {
				s.Errorf("%s: %s", file, found)
			}
		}
		s.contains("docs/keys.md", repositoryFile(s, "docs/keys.md"), "keys reference", "update-alias", "open_only")
	})
}

func TestScanAfterAnAliasHasMoved(t *testing.T) {
	t.Parallel()
	served := strings.Replace(oneAlias, "${frontend}", "${temporal}", 1)
	for _, id := range []string{"2.2", "2.6"} {
		scenario(t, id, "a scan for the alias, while envelopes name the key before", func(s *site) {
			first, second := s.kms.CreateKey(false), s.kms.CreateKey(false)
			s.kms.SetAlias("alias/default", first)
			p := s.serve(served)
			s.start(s.client(p.address, "team-a"), "", "Nothing", "CANARY")
			scan := func(key string) printed {
				s.Helper()
				return s.run("keys", "scan", "--config", p.config, "-n", "team-a", "--key", key)
			}
			got := scan("${key}")
			s.want(got.code == 3, "before: exit code %d", got.code)
			s.contains("keys scan", got.stdout, "IN USE", arn(first))
			s.kms.SetAlias("alias/default", second)
			got = scan("${key}")
			s.want(got.code == 4, "after: exit code %d", got.code)
			s.contains("keys scan", got.stdout, "NOT KNOWN", "not in the config", "keys reference")
			s.lacks("keys scan", got.stdout, "may be retired")
			got = scan("awskms://" + arn(first) + "?${kms}")
			s.want(got.code == 3, "for the ARN before: exit code %d", got.code)
		})
	}
	scenario(t, "2.9", "a scan knows the keys of wildcard entries", func(s *site) {
		acme := s.kms.CreateKey(false)
		s.kms.SetAlias("alias/tenant-acme", acme)
		s.write("tenants.rego", "package temporal\n\nrequest contains {\"action\": \"seal\", \"key\": \"tenant/acme\"}\n")
		p := s.serve(strings.Replace(served, "keys: [", `policy: {file: "${dir}/tenants.rego"}
keys: [{name: "tenant/*", active: "awskms://alias/tenant-{1}?${kms}"}, `, 1))
		s.start(s.client(p.address, "team-b"), "", "Nothing", "CANARY")
		got := s.run("keys", "scan", "--config", p.config, "-n", "team-b")
		for line := range strings.Lines(got.stdout) {
			if strings.Contains(line, "tenant/acme") {
				s.contains("the row of the tenant", line, "alias/tenant-acme", arn(acme), "active")
				s.lacks("the row of the tenant", line, "not in the config")
			}
		}
		s.contains("keys scan", got.stdout, "tenant/acme")
		_, page := p.get("/keys")
		s.contains("/keys", page, arn(acme), `"name": "tenant/*"`)
	})
}
