package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// profile is a config of the proxy with its policy and callers.
type profile struct {
	name string
	// tokens are the callers that cases choose from; empty: anonymous ones.
	tokens []string
	// body is the config below `upstreams` and `keys`; DIR stands for the proxy's own folder.
	body  string
	files map[string]string // by their path in the proxy's folder
	keys  string            // the shared folder of key files
}

// keysYAML are the keys of all profiles, and of the companion.
func (f *profile) keysYAML() string {
	return fmt.Sprintf(`keys:
  - {name: phi, active: "local:%[1]s/phi.key", namespaces: ["clinic-*"]}
  - {name: default, active: "local:%[1]s/default.key"}
`, f.keys)
}

func (f *profile) config(upstream, dir string) string {
	return fmt.Sprintf("upstreams: [{address: %q}]\nadmin: 127.0.0.1:0\n%s%s",
		upstream, f.keysYAML(), strings.ReplaceAll(f.body, "DIR", dir))
}

// companionConfig has the same keys, and a policy that seals as the caller asks and opens everything.
func companionConfig(f *profile, upstream, dir string) string {
	return fmt.Sprintf("listeners: [{address: 127.0.0.1:0}]\nupstreams: [{address: %q}]\nadmin: 127.0.0.1:0\n"+
		"%spolicy: {file: %q}\naudit: {file: AUDIT, required: true}\n",
		upstream, f.keysYAML(), filepath.Join(dir, "companion.rego"))
}

// companionPolicy takes the workflow's id as the hint of how to seal.
const companionPolicy = `package temporal

request contains {"action": "seal", "key": "phi"} if input.workflow.id == "phi"

request contains {"action": "seal", "fields": ["/token", "/ward"]} if input.workflow.id == "fields"

request contains {"action": "seal", "compress": true} if input.workflow.id == "compress"

response contains {"action": "open"}
`

// hints are the workflow ids that companionPolicy knows, and one that it does not.
var hints = []string{"plain", "phi", "fields", "compress"}

// write puts the profile's files and the companion's policy into a folder.
func (f *profile) write(dir string) error {
	all := map[string]string{"companion.rego": companionPolicy}
	for name, text := range f.files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".token") {
			mode = 0o600
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

const (
	workerToken = "worker-0123456789abcdef0123456789abcdef"
	readerToken = "reader-0123456789abcdef0123456789abcdef"
	adminToken  = "admin-0123456789abcdef0123456789abcdef0"
)

// profiles cover the verdicts, the callers and the settings that change what a call does.
func profiles(root, keys string) ([]*profile, error) {
	golden, err := os.ReadFile(filepath.Join(root, "internal/rewrite/testdata/golden/policy.rego"))
	if err != nil {
		return nil, err
	}
	const anonymous = "listeners: [{address: 127.0.0.1:0}]\n"
	return []*profile{
		{name: "policy", keys: keys,
			tokens: []string{workerToken, workerToken, readerToken, adminToken, "wrong-0123456789abcdef0123456789abcdef00"},
			body: `listeners:
  - address: 127.0.0.1:0
    callers:
      token:
        tokens:
          - {subject: worker, file: DIR/worker.token, namespaces: ["clinic-*", lab]}
          - {subject: reader, file: DIR/reader.token, namespaces: [clinic-prod]}
          - {subject: admin, file: DIR/admin.token, namespaces: ["*"]}
grants: [{from: clinic-test, to: clinic-prod}]
policy: {file: DIR/policy.rego, namespaces: DIR/namespaces}
audit: {file: AUDIT, required: true}
unknown_fields: strict
codec_server:
  address: 127.0.0.1:0
  callers:
    token:
      tokens:
        - {subject: worker, file: DIR/worker.token, namespaces: ["clinic-*", lab]}
        - {subject: reader, file: DIR/reader.token, namespaces: [clinic-prod]}
`,
			files: map[string]string{"worker.token": workerToken, "reader.token": readerToken, "admin.token": adminToken,
				"policy.rego": manyVerdicts, "namespaces/lab.rego": labVerdicts}},
		{name: "shipped", keys: keys, body: anonymous + "unknown_fields: lenient\n"},
		{name: "golden", keys: keys, body: anonymous + "policy: {file: DIR/policy.rego}\naudit: {file: AUDIT, required: true}\n",
			files: map[string]string{"policy.rego": string(golden)}},
		{name: "anonymous", keys: keys, body: `listeners: [{address: 127.0.0.1:0, callers: {anonymous: {namespaces: ["clinic-*"]}}}]
policy: {file: DIR/policy.rego}
audit: {file: AUDIT, required: true}
foreign:
  - {namespaces: ["clinic-*"], format: samples, keys: [{id: test, file: DIR/codec.token}]}
  - {namespaces: [clinic-prod], format: zlib}
`,
			files: map[string]string{"policy.rego": anonymousVerdicts, "codec.token": foreignKey}},
		{name: "shadow", keys: keys, body: anonymous + "shadow: true\n"},
	}, nil
}

const manyVerdicts = `package temporal

request contains {"action": "pass"} if {
	input.payload.kind == "header"
	input.payload.name == "trace-parent"
}

request contains {"action": "seal", "key": "phi"} if input.payload.name == "diagnosis"

request contains {"action": "seal", "fields": ["/token", "/items/*/price"]} if {
	input.payload.kind == "input"
	input.content.json.token
}

request contains {"action": "seal", "clear": ["/ward"]} if input.payload.kind == "result"

request contains {"action": "seal", "compress": true} if input.payload.kind == "marker"

request contains {"action": "pass"} if {
	input.payload.kind in {"memo", "input", "query"}
	input.content.json == "emergency"
}

request contains {"action": "pass"} if input.workflow.type == "Open"

request contains {"action": "pass"} if input.activity.type == "Open"

request contains {"action": "deny", "reason": "not here"} if input.content.json.deny

request contains {"action": "accept"} if {
	input.payload.kind == "signal"
	input.caller.subject == "worker"
}

request contains {"action": "seal", "key": "no-such-key"} if input.payload.name == "badkey"

request contains {"action": "redact"} if {
	input.payload.kind == "reason"
	input.rpc == "TerminateWorkflowExecution"
}

request contains {"action": "deny", "reason": "no reasons"} if {
	input.payload.kind == "reason"
	input.rpc == "RequestCancelWorkflowExecution"
}

response contains {"action": "open"} if input.caller.subject != "reader"

response contains {"action": "open"} if {
	input.caller.subject == "reader"
	input.sealed.key == "default"
}

response contains {"action": "redact"} if {
	input.caller.subject == "reader"
	input.sealed.key == "phi"
}

response contains {"action": "keep"} if {
	input.caller.subject == "reader"
	input.payload.kind == "memo"
}

response contains {"action": "deny", "reason": "secret"} if input.payload.name == "secret"
`

const anonymousVerdicts = `package temporal

request contains {"action": "accept"} if input.payload.kind != "details"

request contains {"action": "pass"} if input.payload.kind in {"memo", "result", "failure", "details"}

request contains {"action": "seal", "fields": ["/token"]} if input.payload.kind == "signal"

response contains {"action": "open"}

response contains {"action": "redact"} if input.payload.kind == "failure"

response contains {"action": "keep"} if {
	input.payload.kind == "memo"
	startswith(input.sealed.key, "foreign:")
}
`

const labVerdicts = `package temporal.namespaces["lab"]

request contains {"action": "deny", "reason": "the lab has no queries"} if input.payload.kind == "query"

response contains {"action": "redact"} if input.payload.kind == "header"
`
