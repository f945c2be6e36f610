// Package deploy checks what is in the folder deploy: the Helm chart as Helm renders it and as the proxy reads its config,
// the dashboard and the alerts against a Prometheus that scrapes the proxy.
package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

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

// at follows names and list indexes; nil where there is nothing.
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

// template renders a chart. What Helm says is in the error.
func template(ctx context.Context, dir string, args ...string) ([]object, error) {
	helm, err := peers.BuildHelm(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, helm, append([]string{"template", "seal", dir, "--namespace", "temporal", "--kube-version", "1.31.0"}, args...)...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, errors.New(string(failed.Stderr))
	} else if err != nil {
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
		if o != nil {
			objects = append(objects, o)
		}
	}
}

func kinds(objects []object) []string {
	var names []string
	for _, o := range objects {
		names = append(names, o.at("kind").(string))
	}
	slices.Sort(names)
	return names
}

// one gives the object of a kind, and of a name if there are several.
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

func TestChartLints(t *testing.T) {
	helm, err := peers.BuildHelm(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), helm, "lint", "--strict", chart(), "--values", write(t, "values.yaml", values)).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCentral(t *testing.T) {
	objects, err := template(t.Context(), chart(), "--values", write(t, "values.yaml", values), "--set", "codecServer.enabled=true", "--set", "metrics.serviceMonitor=true")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ConfigMap", "ConfigMap", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget",
		"Service", "Service", "ServiceAccount", "ServiceMonitor"}
	if got := kinds(objects); !slices.Equal(got, want) {
		t.Errorf("%v\nnot %v", got, want)
	}
	d := one(t, objects, "Deployment", "")
	pod := []any{"spec", "template", "spec"}
	proxy := append(slices.Clone(pod), "containers", 0)
	in := func(base []any, path ...any) []any { return append(slices.Clone(base), path...) }
	expect(t, d, 5+70+10, in(pod, "terminationGracePeriodSeconds")...)
	expect(t, d, "seal-temporal-seal", in(pod, "serviceAccountName")...)
	expect(t, d, map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
		"capabilities": map[string]any{"drop": []string{"ALL"}}, "seccompProfile": map[string]any{"type": "RuntimeDefault"}}, in(proxy, "securityContext")...)
	expect(t, d, "/readyz", in(proxy, "readinessProbe", "httpGet", "path")...)
	expect(t, d, "/healthz", in(proxy, "livenessProbe", "httpGet", "path")...)
	expect(t, d, "http://collector:4317", in(proxy, "env", 0, "value")...)
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

// TestConfigIsTaken gives the config and the policies that the chart writes to the proxy itself.
func TestConfigIsTaken(t *testing.T) {
	objects, err := template(t.Context(), chart(), "--values", write(t, "values.yaml", values))
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir() // stands for the pod's file system
	key := filepath.Join(root, "seal.key")
	if out, err := exec.CommandContext(t.Context(), proxy, "keys", "new", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := one(t, objects, "Deployment", "")
	mounts := d.at("spec", "template", "spec", "containers", 0, "volumeMounts").([]any)
	volumes := d.at("spec", "template", "spec", "volumes").([]any)
	for i, m := range mounts {
		from, ok := object(volumes[i].(map[string]any)).at("configMap", "name").(string)
		if !ok {
			continue
		}
		dir := filepath.Join(root, m.(map[string]any)["mountPath"].(string))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range one(t, objects, "ConfigMap", from).at("data").(map[string]any) {
			moved := strings.NewReplacer("/etc/temporal-seal", root+"/etc/temporal-seal", "/keys/seal.key", key).Replace(text.(string))
			if err := os.WriteFile(filepath.Join(dir, name), []byte(moved), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	args := d.at("spec", "template", "spec", "containers", 0, "args").([]any)
	config := args[2].(string)
	out, err := exec.CommandContext(t.Context(), proxy, "check", "--config", filepath.Join(root, config)).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// The rules of the namespace are among what was read: broken, they are noticed.
	rules := filepath.Join(root, "etc/temporal-seal/namespaces/clinic-prod.rego")
	if err := os.WriteFile(rules, []byte("package temporal.namespaces[\"clinic-prod\"]\n\nrequest contains"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), proxy, "check", "--config", filepath.Join(root, config)).CombinedOutput(); err == nil {
		t.Errorf("the namespace's rules were not read:\n%s", out)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no key":       {nil, "config.keys is empty"},
		"unknown mode": {[]string{"--set", "mode=both", "--set", "config.keys[0].name=default"}, `mode is "both"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := template(t.Context(), chart(), c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("not refused with %q: %v", c.want, err)
			}
		})
	}
}

// TestSidecar renders a team's own chart that has this one as a dependency.
func TestSidecar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "worker")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(harness.Root(), "deploy", "helm", "examples", "sidecar"))); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "charts", "temporal-seal"), os.DirFS(chart())); err != nil {
		t.Fatal(err)
	}
	objects, err := template(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := kinds(objects); !slices.Equal(got, []string{"ConfigMap", "Deployment"}) {
		t.Errorf("%v", got)
	}
	d := one(t, objects, "Deployment", "payments-worker")
	expect(t, d, "Always", "spec", "template", "spec", "initContainers", 0, "restartPolicy")
	expect(t, d, 5+70+10, "spec", "template", "spec", "terminationGracePeriodSeconds")
	expect(t, d, "seal-key", "spec", "template", "spec", "volumes", 1, "secret", "secretName")
	config := one(t, objects, "ConfigMap", "").at("data", "config.yaml").(string)
	if !strings.Contains(config, "after: worker") || !strings.Contains(config, "127.0.0.1:7233") {
		t.Errorf("not a sidecar's config:\n%s", config)
	}
}
