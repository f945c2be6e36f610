package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// shape is a way to run the proxy that docs/kubernetes.md describes, with its values in deploy/helm/examples.
type shape struct {
	name  string
	dir   string // of the chart that is installed
	args  []string
	kinds []string
	proxy []any // where the Deployment has the proxy's container
	ports string
}

func shapes(t *testing.T) []shape {
	t.Helper()
	examples := filepath.Join(harness.Root(), "deploy", "helm", "examples")
	worker := filepath.Join(t.TempDir(), "sidecar")
	if err := os.CopyFS(worker, os.DirFS(filepath.Join(examples, "sidecar"))); err != nil {
		t.Fatal(err)
	}
	// As `helm dependency update` does, from this checkout. The chart's files are links to others of the repository.
	if err := os.MkdirAll(filepath.Join(worker, "charts"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-RL", chart(), filepath.Join(worker, "charts")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	central := []string{"ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceAccount"}
	return []shape{
		{"sidecar", worker, nil, []string{"ConfigMap", "ConfigMap", "Deployment"}, in(pod, "initContainers", 0), "admin=7334"},
		{"central", chart(), []string{"--values", filepath.Join(examples, "central.yaml")},
			append(slices.Clone(central), "ConfigMap", "ConfigMap", "Ingress", "PrometheusRule", "ServiceMonitor"), proxy, "workers=7333 people=7343 admin=7334 codec=7335"},
		{"cloud", chart(), []string{"--values", filepath.Join(examples, "cloud.yaml")}, central, proxy, "grpc=7333 admin=7334"},
	}
}

// TestShapes lints and renders each shape, and has the proxy check the config, policies and certificates that its pod mounts.
func TestShapes(t *testing.T) {
	program, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shapes(t) {
		t.Run(s.name, func(t *testing.T) {
			if _, err := run(t.Context(), append([]string{"lint", "--strict", s.dir}, s.args...)...); err != nil {
				t.Error(err)
			}
			objects := mustTemplate(t, s.dir, s.args...)
			slices.Sort(s.kinds)
			if got := kinds(objects); !slices.Equal(got, s.kinds) {
				t.Errorf("%v\nnot %v", got, s.kinds)
			}
			d := one(t, objects, "Deployment", "")
			var ports []string
			for _, p := range d.at(in(s.proxy, "ports")...).([]any) {
				ports = append(ports, text(p, "name")+"="+text(p, "containerPort"))
			}
			if got := strings.Join(ports, " "); got != s.ports {
				t.Errorf("ports %s, not %s", got, s.ports)
			}
			expect(t, d, 5+70+10, in(pod, "terminationGracePeriodSeconds")...)
			expect(t, d, 65532, in(pod, "securityContext", "fsGroup")...)
			config := mounted(t, objects, d, s.proxy, program)
			// Without --offline the proxy would ask KMS. The sidecar's key is a file.
			args := []string{"check", "--strict", "--config", config}
			if s.name != "sidecar" {
				args = append(args, "--offline")
			}
			if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			rulesAreRead(t, program, config)
		})
	}
}

// text returns a member of an object as text.
func text(o any, name string) string { return fmt.Sprint(o.(map[string]any)[name]) }

// mounted writes what the proxy's container mounts below a folder that stands for its file system, and returns the path of the
// config there. The Secrets and ConfigMaps that an operator has to make hold a certificate, an API key and a local key file.
func mounted(t *testing.T, objects []object, d object, proxy []any, program string) string {
	t.Helper()
	root := t.TempDir()
	sources := map[string]object{}
	for _, v := range d.at(in(pod, "volumes")...).([]any) {
		volume := object(v.(map[string]any))
		sources[volume.at("name").(string)] = volume
	}
	var paths []string
	for _, m := range d.at(in(proxy, "volumeMounts")...).([]any) {
		mount := object(m.(map[string]any))
		path := mount.at("mountPath").(string)
		paths = append(paths, path+"/", root+path+"/")
		dir := filepath.Join(root, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		source, ok := sources[mount.at("name").(string)]
		if !ok {
			t.Errorf("there is no volume for the mount %v", mount)
			continue
		}
		name, _ := source.at("configMap", "name").(string)
		i := slices.IndexFunc(objects, func(o object) bool { return o.at("kind") == "ConfigMap" && o.at("metadata", "name") == name })
		if i < 0 {
			provide(t, dir, program)
			continue
		}
		for file, text := range objects[i].at("data").(map[string]any) {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text.(string)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	config := filepath.Join(root, "etc/temporal-seal/config/config.yaml")
	written, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	paths = append(paths, "/etc/temporal-seal/namespaces", root+"/etc/temporal-seal/namespaces") // a folder by its own path
	if err := os.WriteFile(config, []byte(strings.NewReplacer(paths...).Replace(string(written))), 0o644); err != nil {
		t.Fatal(err)
	}
	if want := "--config=/etc/temporal-seal/config/config.yaml"; d.at(in(proxy, "args", 1)...) != want {
		t.Errorf("the container is not started with %s", want)
	}
	return config
}

// provide writes what an operator would put into a Secret or a ConfigMap.
func provide(t *testing.T, dir, program string) {
	t.Helper()
	if err := harness.WriteCertificate(dir, "tls", time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	certificate, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string][]byte{"ca.crt": certificate, "api-key": []byte("not-a-real-key\n")} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), program, "keys", "new", filepath.Join(dir, "seal.key")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// rulesAreRead breaks each namespace's rules: the check above has to have read them.
func rulesAreRead(t *testing.T, program, config string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(config), "../namespaces/*.rego"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte("package temporal.namespaces[\"x\"]\n\nrequest contains"), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), program, "check", "--offline", "--config", config).CombinedOutput(); err == nil {
			t.Errorf("%s was not read:\n%s", filepath.Base(file), out)
		}
	}
}
