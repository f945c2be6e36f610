// Package deploy checks what is in the folder deploy: the Helm chart as Helm renders it and as the proxy reads its config,
// the dashboard and the alerts against a Prometheus that scrapes the proxy.
package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	kubeyaml "sigs.k8s.io/yaml"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

func chart() string { return filepath.Join(harness.Root(), "deploy", "helm", "temporal-seal") }

// object is one Kubernetes object.
type object map[string]any

// at follows names and list indexes. It returns nil where there is nothing.
func (o object) at(path ...any) any {
	var v any = map[string]any(o)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// kubernetes returns an empty value of Kubernetes' own type for a kind, or nil for the kinds of the Prometheus operator.
func kubernetes(kind string) any {
	return map[string]any{
		"ConfigMap": new(core.ConfigMap), "Deployment": new(apps.Deployment), "HorizontalPodAutoscaler": new(autoscaling.HorizontalPodAutoscaler),
		"Ingress": new(networking.Ingress), "NetworkPolicy": new(networking.NetworkPolicy), "PodDisruptionBudget": new(policy.PodDisruptionBudget),
		"Service": new(core.Service), "ServiceAccount": new(core.ServiceAccount),
	}[kind]
}

// run calls Helm. The error holds what Helm wrote to standard error.
func run(ctx context.Context, args ...string) ([]byte, error) {
	helm, err := peers.BuildHelm(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, helm, args...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return out, fmt.Errorf("helm %s: %s", args[0], failed.Stderr)
	}
	return out, err
}

// template renders a chart. An object that Kubernetes would not take, such as one with an unknown field, is an error.
func template(ctx context.Context, dir string, args ...string) ([]object, error) {
	out, err := run(ctx, append([]string{"template", "seal", dir, "--namespace", "temporal", "--kube-version", "1.31.0"}, args...)...)
	if err != nil {
		return nil, err
	}
	var objects []object
	for d := yaml.NewDecoder(bytes.NewReader(out)); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if o == nil {
			continue
		}
		objects = append(objects, o)
		kind, _ := o.at("kind").(string)
		typed := kubernetes(kind)
		if typed == nil && !slices.Contains([]string{"ServiceMonitor", "PrometheusRule"}, kind) {
			return nil, fmt.Errorf("the chart renders a %q, a kind that this test does not know", kind)
		} else if typed == nil {
			continue
		}
		text, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		if err := kubeyaml.UnmarshalStrict(text, typed); err != nil {
			return nil, fmt.Errorf("%s %v: %w", kind, o.at("metadata", "name"), err)
		}
	}
}

// mustTemplate is template for values that have to render.
func mustTemplate(t *testing.T, dir string, args ...string) []object {
	t.Helper()
	objects, err := template(t.Context(), dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func kinds(objects []object) []string {
	var names []string
	for _, o := range objects {
		names = append(names, o.at("kind").(string))
	}
	slices.Sort(names)
	return names
}

// one returns the object of a kind, and of a name if there are several.
func one(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	for _, o := range objects {
		if o.at("kind") == kind && (name == "" || o.at("metadata", "name") == name) {
			return o
		}
	}
	t.Fatalf("no %s %s among %v", kind, name, kinds(objects))
	return nil
}

func expect(t *testing.T, o object, want any, path ...any) {
	t.Helper()
	got, _ := json.Marshal(o.at(path...))
	text, _ := json.Marshal(want)
	if !bytes.Equal(got, text) {
		t.Errorf("%v %v: %s, not %s", o.at("kind"), path, got, text)
	}
}

// values are those that an operator writes for many teams.
const values = `
config:
  listeners:
    - address: 0.0.0.0:7333
      callers: {anonymous: {namespaces: ["clinic-*"]}}
  upstreams:
    - address: temporal-frontend.temporal.svc:7233
  keys:
    - {name: default, active: "local:/keys/seal.key"}
secrets:
  - {secret: seal-key, path: /keys}
policy:
  platform: |
    package temporal

    response contains {"action": "open"}
  namespaces:
    clinic-prod: |
      package temporal.namespaces["clinic-prod"]

      request contains {"action": "deny", "reason": "no tokens here"} if input.payload.name == "authorization"
tracing: {endpoint: "http://collector:4317"}
serviceAccount:
  annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::111122223333:role/temporal-seal"}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// with renders the chart with values, and --set arguments over them.
func with(t *testing.T, values string, sets ...string) []object {
	t.Helper()
	args := []string{"--values", write(t, "values.yaml", values)}
	for _, set := range sets {
		args = append(args, "--set", set)
	}
	return mustTemplate(t, chart(), args...)
}

var (
	pod   = []any{"spec", "template", "spec"}
	proxy = []any{"spec", "template", "spec", "containers", 0}
)

func in(base []any, path ...any) []any { return append(slices.Clone(base), path...) }

func TestCentral(t *testing.T) {
	objects := with(t, values)
	want := []string{"ConfigMap", "ConfigMap", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget",
		"Service", "Service", "ServiceAccount"}
	if got := kinds(objects); !slices.Equal(got, want) {
		t.Errorf("%v\nnot %v", got, want)
	}
	d := one(t, objects, "Deployment", "")
	expect(t, d, 5+70+10, in(pod, "terminationGracePeriodSeconds")...)
	expect(t, d, "seal-temporal-seal", in(pod, "serviceAccountName")...)
	expect(t, d, map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
		"capabilities": map[string]any{"drop": []string{"ALL"}}, "seccompProfile": map[string]any{"type": "RuntimeDefault"}}, in(proxy, "securityContext")...)
	expect(t, d, map[string]any{"fsGroup": 65532}, in(pod, "securityContext")...)
	expect(t, d, "/readyz", in(proxy, "readinessProbe", "httpGet", "path")...)
	expect(t, d, "/healthz", in(proxy, "livenessProbe", "httpGet", "path")...)
	expect(t, d, "http://collector:4317", in(proxy, "env", 0, "value")...)
	expect(t, d, []map[string]any{{"name": "grpc", "containerPort": 7333}, {"name": "admin", "containerPort": 7334}}, in(proxy, "ports")...)
	expect(t, d, "topology.kubernetes.io/zone", in(pod, "topologySpreadConstraints", 0, "topologyKey")...)
	expect(t, d, nil, "spec", "replicas") // the autoscaler's
	expect(t, one(t, objects, "ServiceAccount", ""), "arn:aws:iam::111122223333:role/temporal-seal", "metadata", "annotations", "eks.amazonaws.com/role-arn")
	expect(t, one(t, objects, "PodDisruptionBudget", ""), 1, "spec", "maxUnavailable")
	selector := one(t, objects, "Service", "seal-temporal-seal").at("spec", "selector")
	for _, o := range []object{d, one(t, objects, "PodDisruptionBudget", "")} {
		expect(t, o, selector, "spec", "selector", "matchLabels")
	}
	expect(t, one(t, objects, "NetworkPolicy", ""), selector, "spec", "podSelector", "matchLabels")
	expect(t, one(t, objects, "NetworkPolicy", ""), []string{"Ingress", "Egress"}, "spec", "policyTypes")
}

// TestSettings changes one thing at a time.
func TestSettings(t *testing.T) {
	deployment := func(path ...any) func(*testing.T, []object, any) {
		return func(t *testing.T, objects []object, want any) {
			t.Helper()
			expect(t, one(t, objects, "Deployment", ""), want, path...)
		}
	}
	for name, c := range map[string]struct {
		sets []string
		at   func(*testing.T, []object, any)
		want any
	}{
		"service port": {[]string{"service.port=443"}, func(t *testing.T, objects []object, want any) {
			expect(t, one(t, objects, "Service", "seal-temporal-seal"), want, "spec", "ports")
		}, []map[string]any{{"name": "grpc", "port": 443, "targetPort": "grpc"}}},
		"longer drain":         {[]string{"config.drain.delay=1m30s", "config.drain.time=2m"}, deployment(in(pod, "terminationGracePeriodSeconds")...), 90 + 120 + 10},
		"drain of parts":       {[]string{"config.drain.delay=1500ms"}, deployment(in(pod, "terminationGracePeriodSeconds")...), 2 + 70 + 10},
		"grace period":         {[]string{"terminationGracePeriodSeconds=300"}, deployment(in(pod, "terminationGracePeriodSeconds")...), 300},
		"arguments":            {[]string{"extraArgs={--log-level=debug}"}, deployment(in(proxy, "args", 3)...), "--log-level=debug"},
		"environment":          {[]string{"env[0].name=AWS_REGION", "env[0].value=eu-central-1"}, deployment(in(proxy, "env", 4, "value")...), "eu-central-1"},
		"environment of a map": {[]string{"envFrom[0].configMapRef.name=proxies"}, deployment(in(proxy, "envFrom", 0, "configMapRef", "name")...), "proxies"},
		"volume":               {[]string{"extraVolumes[0].name=audit", "extraVolumes[0].persistentVolumeClaim.claimName=audit"}, deployment(in(pod, "volumes", 4, "persistentVolumeClaim", "claimName")...), "audit"},
		"mount":                {[]string{"extraVolumeMounts[0].name=audit", "extraVolumeMounts[0].mountPath=/audit"}, deployment(in(proxy, "volumeMounts", 4, "mountPath")...), "/audit"},
		"key file":             {nil, deployment(in(pod, "volumes", 3, "secret", "defaultMode")...), 0o440},
		"files of a map":       {[]string{"configMaps[0].configMap=jwks", "configMaps[0].path=/jwks"}, deployment(in(pod, "volumes", 4, "configMap", "name")...), "jwks"},
		"policy of a map":      {[]string{"policy.existingConfigMap=team-policy"}, deployment(in(pod, "volumes", 1, "configMap", "name")...), "team-policy"},
		"rules of a map":       {[]string{"policy.existingNamespacesConfigMap=rules"}, deployment(in(pod, "volumes", 2, "configMap", "name")...), "rules"},
		"OpenShift pod":        {[]string{"openshift=true"}, deployment(in(pod, "securityContext")...), nil},
		"OpenShift user":       {[]string{"openshift=true"}, deployment(in(proxy, "securityContext", "runAsUser")...), nil},
		"admin port":           {[]string{"config.admin=0.0.0.0:9090"}, deployment(in(proxy, "ports", 1, "containerPort")...), 9090},
		"digest":               {[]string{"image.digest=sha256:" + strings.Repeat("0", 64)}, deployment(in(proxy, "image")...), "ghcr.io/temporal-seal/temporal-seal@sha256:" + strings.Repeat("0", 64)},
		"replicas":             {[]string{"autoscaling.enabled=false", "replicas=5"}, deployment("spec", "replicas"), 5},
	} {
		t.Run(name, func(t *testing.T) { c.at(t, with(t, values, c.sets...), c.want) })
	}
}

// TestExistingConfigMap takes a config that the chart cannot read.
func TestExistingConfigMap(t *testing.T) {
	objects := with(t, `
existingConfigMap: seal-config
ports: [{name: workers, port: 7333}, {name: people, port: 7343}]
terminationGracePeriodSeconds: 85
`)
	if got := kinds(objects); slices.Contains(got, "ConfigMap") {
		t.Errorf("%v", got)
	}
	d := one(t, objects, "Deployment", "")
	expect(t, d, "seal-config", in(pod, "volumes", 0, "configMap", "name")...)
	expect(t, one(t, objects, "Service", "seal-temporal-seal"), []map[string]any{
		{"name": "workers", "port": 7333, "targetPort": "workers"}, {"name": "people", "port": 7343, "targetPort": "people"}}, "spec", "ports")
	expect(t, one(t, objects, "NetworkPolicy", ""), []map[string]any{
		{"port": "workers", "protocol": "TCP"}, {"port": "people", "protocol": "TCP"}}, "spec", "ingress", 0, "ports")
}

// TestMonitoring finds the alerts and the dashboard of deploy in the objects for the Prometheus operator and Grafana.
func TestMonitoring(t *testing.T) {
	objects := with(t, values, "metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.interval=15s", "metrics.serviceMonitor.labels.release=prometheus",
		"metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true")
	monitor := one(t, objects, "ServiceMonitor", "")
	expect(t, monitor, []map[string]any{{"port": "admin", "path": "/metrics", "interval": "15s"}}, "spec", "endpoints")
	expect(t, monitor, "prometheus", "metadata", "labels", "release")
	service := one(t, objects, "Service", "seal-temporal-seal-admin")
	for name, value := range monitor.at("spec", "selector", "matchLabels").(map[string]any) {
		expect(t, service, value, "metadata", "labels", name)
	}
	var rules object
	decode(t, filepath.Join(harness.Root(), "deploy", "prometheus", "alerts.yaml"), yaml.Unmarshal, &rules)
	expect(t, one(t, objects, "PrometheusRule", ""), rules, "spec")
	want, err := os.ReadFile(filepath.Join(harness.Root(), "deploy", "grafana", "temporal-seal.json"))
	if err != nil {
		t.Fatal(err)
	}
	dashboard := one(t, objects, "ConfigMap", "seal-temporal-seal-dashboard")
	expect(t, dashboard, "1", "metadata", "labels", "grafana_dashboard")
	if got := dashboard.at("data", "temporal-seal.json").(string); strings.TrimSpace(got) != strings.TrimSpace(string(want)) {
		t.Error("the ConfigMap does not hold the dashboard of deploy/grafana")
	}
}

func TestRefusals(t *testing.T) {
	key := "config.keys[0].name=default,config.keys[0].active=awskms://alias/a?region=eu-central-1"
	for name, c := range map[string]struct {
		sets []string
		want string
	}{
		"no key":                 {nil, "config.keys is empty: name at least one key"},
		"unknown mode":           {[]string{key, "mode=both"}, "'central', 'sidecar'"},
		"unknown value":          {[]string{key, "replica=3"}, "additional properties 'replica' not allowed"},
		"codec without callers":  {[]string{key, "codecServer.enabled=true"}, "config.codec_server.callers is missing"},
		"codec switched off":     {[]string{key, "config.codec_server.address=0.0.0.0:7335"}, "codecServer.enabled is false: set codecServer.enabled to true"},
		"ingress without codec":  {[]string{key, "codecServer.ingress.enabled=true"}, "enable both"},
		"loopback alone":         {[]string{key, "config.listeners[0].address=127.0.0.1:7333"}, "no entry of config.listeners is reachable from other pods"},
		"admin on loopback":      {[]string{key, "config.admin=127.0.0.1:7334"}, "the kubelet cannot probe a loopback address"},
		"address without a port": {[]string{key, "config.listeners[0].address=0.0.0.0"}, `"0.0.0.0" is not an address: write host:port`},
		"two ports of one name": {[]string{key, "config.listeners[0].address=0.0.0.0:1", "config.listeners[0].name=a", "config.listeners[1].address=0.0.0.0:2", "config.listeners[1].name=A"},
			`two ports have the name "a"`},
		"unknown ports":             {[]string{"existingConfigMap=mine"}, "ports is empty"},
		"unknown drain":             {[]string{"existingConfigMap=mine", "ports[0].name=grpc,ports[0].port=7333"}, "terminationGracePeriodSeconds is required with existingConfigMap"},
		"wrong duration":            {[]string{key, "config.drain.time=soon"}, "drain"},
		"key store without an id":   {[]string{key, "keyStore.url=postgres://seal@db/seal?sslmode=verify-full"}, "keyStore.id is empty"},
		"unknown key store":         {[]string{key, "keyStore.url=mysql://db", storeID}, "keyStore"},
		"two key stores":            {[]string{key, "keyStore.url=dynamodb://keys", storeID, "config.key_store.url=dynamodb://other"}, "are both set"},
		"key store and a ConfigMap": {[]string{"existingConfigMap=mine", "ports[0].name=grpc,ports[0].port=7333", "terminationGracePeriodSeconds=90", "keyStore.url=dynamodb://keys", storeID}, "write key_store there"},
		"SQLite and many replicas":  {[]string{key, "keyStore.url=sqlite:/keys/keys.db", storeID, claim}, "a key store in SQLite is for one process"},
		"SQLite and two replicas":   {[]string{key, "config.key_store.url=sqlite:/keys/keys.db", "autoscaling.enabled=false", "replicas=2", claim}, "a key store in SQLite is for one process"},
		"SQLite in sidecars":        {[]string{key, "keyStore.url=sqlite:/keys/keys.db", storeID, "mode=sidecar", claim}, "the chart cannot see how many workers"},
		"SQLite in the pod":         {[]string{key, "keyStore.url=sqlite:/keys/keys.db", storeID, alone}, "is on no persistent volume"},
		"SQLite in another folder":  {[]string{key, "keyStore.url=sqlite:/keys2/keys.db", storeID, alone, claim}, "is on no persistent volume"},
		"SQLite in an empty volume": {[]string{key, "keyStore.url=sqlite:/keys/keys.db", storeID, alone, strings.Replace(claim, "persistentVolumeClaim.claimName=keys", "emptyDir.medium=Memory", 1)}, "is on no persistent volume"},
	} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, set := range c.sets {
				args = append(args, "--set", set)
			}
			if _, err := template(t.Context(), chart(), args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("not refused with %q: %v", c.want, err)
			}
		})
	}
}

// Values of a key store in SQLite that serves.
const (
	storeID = "keyStore.id=00112233445566778899aabbccddeeff"
	claim   = "extraVolumes[0].name=keys,extraVolumes[0].persistentVolumeClaim.claimName=keys,extraVolumeMounts[0].name=keys,extraVolumeMounts[0].mountPath=/keys"
	alone   = "autoscaling.enabled=false,replicas=1"
)

// TestKeyStore: a key store gets into the config, its password from a Secret into the environment, and its port into the NetworkPolicy.
func TestKeyStore(t *testing.T) {
	objects := with(t, values, "keyStore.url=postgres://seal@db.example.com:6432/seal?sslmode=verify-full", storeID, "keyStore.existingSecret=db")
	d := one(t, objects, "Deployment", "")
	expect(t, d, map[string]any{"name": "PGPASSWORD", "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": "db", "key": "password"}}},
		in(proxy, "env", 0)...)
	expect(t, d, 1, "spec", "strategy", "rollingUpdate", "maxSurge")
	expect(t, one(t, objects, "NetworkPolicy", ""), []map[string]any{{"port": 6432, "protocol": "TCP"}}, "spec", "egress", 1, "ports")
	config := fmt.Sprint(one(t, objects, "ConfigMap", "seal-temporal-seal").at("data", "config.yaml"))
	for _, want := range []string{"key_store:", "id: 00112233445566778899aabbccddeeff", "url: postgres://seal@db.example.com:6432/seal?sslmode=verify-full"} {
		if !strings.Contains(config, want) {
			t.Errorf("the config lacks %q:\n%s", want, config)
		}
	}
	objects = with(t, values, "keyStore.url=postgres://seal@db/seal?sslmode=verify-full", storeID)
	expect(t, one(t, objects, "NetworkPolicy", ""), []map[string]any{{"port": 5432, "protocol": "TCP"}}, "spec", "egress", 1, "ports")
	objects = with(t, values, "keyStore.url=sqlite:/keys/keys.db", storeID, alone, claim)
	expect(t, one(t, objects, "Deployment", ""), "Recreate", "spec", "strategy", "type")
}

// notes is a template that shows NOTES.txt, which Helm itself shows only where it can ask a cluster.
const notes = `{apiVersion: v1, kind: ConfigMap, metadata: {name: notes}, data: {notes: {{ tpl (.Files.Get "NOTES.txt") . | quote }}}}`

// TestNotes renders what an operator reads after `helm install`.
func TestNotes(t *testing.T) {
	for _, s := range shapes(t) {
		if s.name == "sidecar" {
			continue // Helm shows the notes of the worker's chart alone
		}
		dir := filepath.Join(t.TempDir(), "chart")
		if out, err := exec.CommandContext(t.Context(), "cp", "-RL", s.dir, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Rename(filepath.Join(dir, "templates", "NOTES.txt"), filepath.Join(dir, "NOTES.txt")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "templates", "notes.yaml"), []byte(notes), 0o600); err != nil {
			t.Fatal(err)
		}
		args := append(slices.Clone(s.args), "--set", "keyStore.url=postgres://seal@db/seal?sslmode=verify-full", "--set", storeID)
		text := one(t, mustTemplate(t, dir, args...), "ConfigMap", "notes").at("data", "notes").(string)
		for _, want := range []string{"rollout status deployment/seal-temporal-seal", "seal-temporal-seal.temporal.svc:7333", "docs/migration.md", "GRANT SELECT, INSERT ON temporal_seal_keys"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the notes lack %q:\n%s", s.name, want, text)
			}
		}
	}
}
