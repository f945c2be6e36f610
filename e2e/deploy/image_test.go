package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// store is a place for images that buildah uses without a container engine.
type store struct {
	t   *testing.T
	dir string
}

func newStore(t *testing.T) *store {
	t.Helper()
	if _, err := exec.LookPath("buildah"); err != nil {
		t.Skip("no buildah on this machine; Debian has it as the package buildah")
	}
	if os.Getuid() != 0 {
		t.Skip("only root can build an image without a container engine here")
	}
	return &store{t, t.TempDir()}
}

func (s *store) run(args ...string) string {
	s.t.Helper()
	all := append([]string{"--storage-driver", "vfs", "--root", filepath.Join(s.dir, "root"), "--runroot", filepath.Join(s.dir, "run")}, args...)
	cmd := exec.CommandContext(s.t.Context(), "buildah", all...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("buildah %s: %v\n%s%s", strings.Join(args, " "), err, out, said.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// golang makes an image that stands in for the one that the Dockerfile builds on: this machine's Go, a shell, and the
// modules that go.mod names, so that the build needs no network.
func (s *store) golang(ctx context.Context) {
	s.t.Helper()
	root := filepath.Join(s.dir, "golang")
	for _, dir := range []string{"bin", "tmp", "usr/local", "etc/ssl/certs", "modules"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		s.t.Skip("no busybox on this machine for a shell in the image; Debian has it as the package busybox-static")
	}
	modules := filepath.Join(s.dir, "modules")
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(ctx, "cp", busybox, filepath.Join(root, "bin/sh")),
		exec.CommandContext(ctx, "cp", "-a", goEnv(s.t, "GOROOT"), filepath.Join(root, "usr/local/go")),
		exec.CommandContext(ctx, "cp", "/etc/ssl/certs/ca-certificates.crt", filepath.Join(root, "etc/ssl/certs/")),
		download(ctx, modules),
		exec.CommandContext(ctx, "cp", "-a", filepath.Join(modules, "cache/download")+"/.", filepath.Join(root, "modules")),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	s.t.Cleanup(func() { // the module cache is not writable
		clean := exec.Command("go", "clean", "-modcache")
		clean.Env = append(os.Environ(), "GOMODCACHE="+modules)
		_ = clean.Run()
	})
	c := s.run("from", "scratch")
	s.run("copy", "-q", c, root, "/")
	s.run("config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "HOME=/tmp", "--env", "GOCACHE=/gocache", "--env", "GOPROXY=file:///modules", "--env", "GOSUMDB=off",
		"--env", "GOTOOLCHAIN=local", c)
	s.run("commit", "-q", c, base(s.t))
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// download fills a module cache with what the product's go.mod names, from the cache of this machine where it can.
func download(ctx context.Context, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", `GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" GOMODCACHE="$0" go mod download`, dir)
	cmd.Dir = harness.Root()
	return cmd
}

// base is the image that the Dockerfile names.
func base(t *testing.T) string {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(harness.Root(), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^FROM (?:--platform=\S+ )?(\S+) AS build$`).FindSubmatch(file)
	if found == nil {
		t.Fatal("the Dockerfile has no stage that builds")
	}
	return string(found[1])
}

// build runs the Dockerfile and gives the binary and what the image says of itself.
func (s *store) build(name string, args ...string) (binary string, config imageConfig) {
	s.t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		s.t.Fatal(err)
	}
	cache = filepath.Join(cache, "temporal-seal", "image-build") // of the Go toolchain in the image: the first time takes minutes
	if err := os.MkdirAll(cache, 0o755); err != nil {
		s.t.Fatal(err)
	}
	all := []string{"build", "--isolation", "chroot", "--pull-never", "--layers=false", "-v", cache + ":/gocache", "-t", name}
	for _, a := range args {
		all = append(all, "--build-arg", a)
	}
	s.run(append(all, "-f", filepath.Join(harness.Root(), "Dockerfile"), harness.Root())...)
	c := s.run("from", "--pull-never", name)
	var about struct{ OCIv1 struct{ Config imageConfig } }
	if err := json.Unmarshal([]byte(s.run("inspect", c)), &about); err != nil {
		s.t.Fatal(err)
	}
	return filepath.Join(s.run("mount", c), "temporal-seal"), about.OCIv1.Config
}

type imageConfig struct {
	User       string
	Entrypoint []string
}

// TestImage builds the image as the Dockerfile says, twice and once more for FIPS. What no container engine is here to do is
// to run it: its binary runs on this machine instead.
func TestImage(t *testing.T) {
	s := newStore(t)
	s.golang(t.Context())
	first, config := s.build("localhost/seal:1", "VERSION=v1.2.3")
	if config.User != "65532:65532" || !slices.Equal(config.Entrypoint, []string{"/temporal-seal"}) {
		t.Errorf("the image runs %v as user %q", config.Entrypoint, config.User)
	}
	entries, err := filepath.Glob(filepath.Join(filepath.Dir(first), "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := filepath.Base(e); !slices.Contains([]string{"temporal-seal", "etc", "licenses"}, name) {
			t.Errorf("the image holds %s, which nothing in it needs", name)
		}
	}
	licenses, err := os.ReadFile(filepath.Join(filepath.Dir(first), "licenses", "THIRD-PARTY-LICENSES"))
	if err != nil || !bytes.Contains(licenses, []byte("\ngo.temporal.io/api v")) {
		t.Errorf("the image lacks the licenses of what is compiled into it: %v", err)
	}
	static(t, first)
	out, err := exec.CommandContext(t.Context(), first, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "temporal-seal v1.2.3 ") {
		t.Errorf("%v: %s", err, out)
	}
	second, _ := s.build("localhost/seal:2", "VERSION=v1.2.3")
	if a, b := sum(t, first), sum(t, second); a != b {
		t.Errorf("two builds of one source differ: %s and %s", a, b)
	}
	fips, _ := s.build("localhost/seal:fips", "VERSION=v1.2.3", "GOFIPS140=certified")
	static(t, fips)
	info, err := buildinfo.ReadFile(fips)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(info.Settings, func(b debug.BuildSetting) bool { return b.Key == "GOFIPS140" && strings.HasPrefix(b.Value, "v1.") }) {
		t.Errorf("the FIPS image was built without a certified module: %v", info.Settings)
	}
	if out, err := exec.CommandContext(t.Context(), fips, "version").Output(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func static(t *testing.T, binary string) {
	t.Helper()
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("the binary needs %v (%v), and the image has no library", libraries, err)
	}
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]; f.Machine != want {
		t.Errorf("built for %v", f.Machine)
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
