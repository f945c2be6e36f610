package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"

	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// certificate writes a self-signed certificate for localhost and its key into the scenario's folder: name.crt and name.key.
func (s *site) certificate(name string, from, until time.Time) {
	s.Helper()
	s.ok(harness.WriteCertificate(s.dir, name, from, until))
}

// checked runs check with a config that is written first.
func (s *site) checked(config string, args ...string) printed {
	s.Helper()
	return s.run(append([]string{"check", "--config", s.write("proxy.yaml", config)}, args...)...)
}

func TestCheckCertificates(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	scenario(t, "4.3", "a key that is not the certificate's", func(s *site) {
		s.certificate("one", time.Now().Add(-day), time.Now().Add(day))
		s.certificate("two", time.Now().Add(-day), time.Now().Add(day))
		got := s.checked(`
listeners: [{address: "127.0.0.1:0", tls: {cert_file: "${dir}/one.crt", key_file: "${dir}/two.key"}}]
keys: [{name: default, active: "${key}"}]
`)
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), "listeners[0]", "tls", "private key does not match")
	})
}

// small is a config that lacks nothing.
const small = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
policy: {file: "${dir}/policy.rego"}
`

// misspelled are rules of a platform's policy, each with a name that does not exist, on line 5, and the one that it means.
var misspelled = map[string][3]string{
	"kind":                  {`request contains {"action": "pass"} if input.payload.kind == "resutl"`, "resutl", "result"},
	"kind in a negated set": {`request contains {"action": "pass"} if not input.payload.kind in {"heder", "memo"}`, "heder", "header"},
	"method":                {`request contains {"action": "pass"} if input.rpc == "StartWorkflowExectuion"`, "StartWorkflowExectuion", "StartWorkflowExecution"},
	"kind of caller":        {`response contains {"action": "redact"} if input.caller.kind != "mtsl"`, "mtsl", "mtls"},
	"action":                {`request contains {"action": "seel"} if input.payload.kind == "result"`, "seel", "seal"},
}

const opening = "package temporal\n\nresponse contains {\"action\": \"open\"} if input.sealed.namespace == input.namespace\n\n"

func TestNames(t *testing.T) {
	t.Parallel()
	for what, rule := range misspelled {
		scenario(t, "4.11", what, func(s *site) {
			s.write("policy.rego", opening+rule[0]+"\n")
			got := s.checked(small)
			s.want(got.code == 1, "exit code %d", got.code)
			s.contains("check", got.all(), `policy.rego:5: "`+rule[1]+`" is not `, `did you mean "`+rule[2]+`"?`)
		})
		scenario(t, "4.12", what, func(s *site) {
			s.write("policy.rego", opening+rule[0]+"\n")
			p := s.launch(small)
			<-p.Done()
			s.want(p.ExitCode() == 1, "exit code %d", p.ExitCode())
			s.contains("serve", p.log.String(), `policy.rego:5: "`+rule[1]+`" is not `, `did you mean "`+rule[2]+`"?`)
		})
	}
	scenario(t, "4.12", "a changed policy with such a name is not taken", func(s *site) {
		s.write("policy.rego", opening)
		p := s.serve(small)
		s.write("policy.rego", opening+misspelled["kind"][0]+"\n")
		s.eventually(func() error {
			if code, body := p.get("/readyz"); !strings.Contains(body, `"resutl" is not a kind of payload`) {
				return fmt.Errorf("/readyz: %d %s", code, body)
			}
			return nil
		})
	})
	scenario(t, "4.11", "names in cases", func(s *site) {
		s.write("policy.rego", opening)
		s.write("cases.yaml", "cases:\n  - {name: c, input: {namespace: a, rpc: StartWorkflow, payload: {kind: input}}, want: {action: seal}}\n")
		got := s.checked(small)
		s.want(got.code == 1, "exit code %d", got.code)
		s.contains("check", got.all(), `input.rpc`+"`"+`: "StartWorkflow" is not a method`)
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	scenario(t, "4.20", "a rule with two values at once", func(s *site) {
		s.write("policy.rego", opening+`request contains {"action": "seal", "compress": both(input.payload.name)} if input.payload.kind == "memo"

both(x) := true if x != "trial"

both(_) := false
`)
		for _, output := range []string{"text", "json"} {
			got := s.run("explain", "--policy", "policy.rego", "--kind", "memo", "--output", output)
			s.want(got.code == 1, "exit code %d", got.code)
			s.contains("explain", got.stdout, "two different values at once")
		}
		got := s.run("explain", "--policy", "policy.rego", "--kind", "input")
		s.want(got.code == 0, "exit code %d for a payload without error: %s", got.code, got.all())
	})
}

func TestCheckDataKeys(t *testing.T) {
	t.Parallel()
	scenario(t, "4.21", "a permission to make data keys that is missing, and one to open them", func(s *site) {
		config := s.write("config.yaml", `
upstreams: [{address: "${temporal}"}]
keys: [{name: default, active: "${key}"}]
`)
		p := s.run("check", "--config", config, "--connect")
		s.want(p.code == 0, "check --connect with all permissions ends with %d: %s", p.code, p.all())
		for operation, text := range map[string]string{
			"GenerateDataKey": "it makes no data key: ", "Decrypt": "it does not open the data key that it has made: "} {
			s.kms.Always(operation, kmsstub.Fault{Error: "AccessDeniedException"})
			p = s.run("check", "--config", config)
			s.want(p.code == 0, "check without --connect ends with %d: %s", p.code, p.all())
			p = s.run("check", "--config", config, "--connect")
			s.want(p.code == 1, "check --connect ends with %d", p.code)
			s.contains("check --connect", p.all(), "config.yaml:3", text, "AccessDenied")
			s.kms.Heal()
		}
	})
}
