// Releasecheck inspects what goreleaser wrote into a folder: archives and packages and what is in them, the system that each
// binary is for, the one that runs here, SBOMs, licenses, checksums. With -again it also compares the folder, byte by byte,
// with that of a second build. It prints a line for each, and ends with `release: N files, N checked, N untried here`.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

func main() {
	dist := flag.String("dist", "bin/dist", "folder that goreleaser wrote")
	again := flag.String("again", "", "that of a second build")
	flag.Parse()
	c := &check{dist: *dist}
	if err := c.run(*again); err != nil {
		fmt.Fprintf(os.Stderr, "releasecheck: %v\n", err)
		os.Exit(1)
	}
	if len(c.wrong) > 0 {
		fmt.Fprintf(os.Stderr, "releasecheck: %d wrong\n", len(c.wrong))
		os.Exit(1)
	}
}

// untried are the steps of a release that need what is not here.
var untried = []string{
	"cosign signature of checksums.txt: needs an identity from GitHub",
	"provenance attestation: needs GitHub",
	"images for linux/amd64 and linux/arm64: need buildx and a registry (make test-image builds one with buildah)",
	"chart as an OCI artifact: needs a registry",
	"binaries for other systems than this one: built, not run",
}

// check collects what is wrong.
type check struct {
	dist    string
	version string
	checked int
	wrong   []string
}

func (c *check) ok(format string, args ...any) {
	c.checked++
	fmt.Printf("ok       %s\n", fmt.Sprintf(format, args...))
}

func (c *check) bad(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
	fmt.Printf("WRONG    %s\n", c.wrong[len(c.wrong)-1])
}

func (c *check) run(again string) error {
	var about struct{ Version string }
	if err := readJSON(filepath.Join(c.dist, "metadata.json"), &about); err != nil {
		return err
	}
	c.version = about.Version
	files, err := published(c.dist)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s holds no checksums.txt with files: run goreleaser first", c.dist)
	}
	for _, want := range expected(c.version) {
		if files[want] == "" {
			c.bad("%s is missing", want)
		}
	}
	for _, name := range sorted(files) {
		sum, err := hash(filepath.Join(c.dist, name))
		if err != nil {
			return err
		}
		if sum != files[name] {
			c.bad("%s: not the checksum that checksums.txt has", name)
			continue
		}
		if err := c.file(name); err != nil {
			c.bad("%s: %v", name, err)
		}
	}
	if again != "" {
		if err := c.same(again, files); err != nil {
			return err
		}
	}
	for _, what := range untried {
		fmt.Printf("untried  %s\n", what)
	}
	fmt.Printf("release: %d files, %d checked, %d untried here\n", len(files), c.checked, len(untried))
	return nil
}

// expected lists the archives, packages and SBOMs of a release.
func expected(version string) (names []string) {
	for _, target := range []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64", "windows_amd64", "windows_arm64"} {
		suffix := ".tar.gz"
		if strings.HasPrefix(target, "windows") {
			suffix = ".zip"
		}
		names = append(names, "temporal-seal_"+version+"_"+target+suffix, "temporal-seal_"+version+"_"+target+".cdx.json")
		if strings.HasPrefix(target, "linux") {
			names = append(names, "temporal-seal-fips_"+version+"_"+target+".tar.gz", "temporal-seal-fips_"+version+"_"+target+".cdx.json",
				"temporal-seal_"+version+"_"+target+".deb", "temporal-seal_"+version+"_"+target+".rpm")
		}
	}
	return names
}

// published reads the names and sums of checksums.txt.
func published(dist string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(dist, "checksums.txt"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if sum, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			files[name] = sum
		}
	}
	return files, nil
}

func (c *check) file(name string) error {
	switch {
	case strings.HasSuffix(name, ".cdx.json"):
		return c.sbom(name)
	case strings.HasSuffix(name, ".deb"), strings.HasSuffix(name, ".rpm"):
		return c.pack(name)
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".zip"):
		return c.archive(name)
	}
	return errors.New("this check does not know such a file")
}

// inArchives is what each archive has beside the binary.
var inArchives = []string{"LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "policy.rego", "THIRD-PARTY-LICENSES",
	"completions/temporal-seal.bash", "man/temporal-seal.1", "man/temporal-seal-keys-scan.1"}

// archive looks for everything that has to be in it, takes the binary's own word for its system, modules and version, and
// runs it where that is possible.
func (c *check) archive(name string) error {
	open := unpackTar
	binary := "temporal-seal"
	if strings.HasSuffix(name, ".zip") {
		open, binary = unpackZip, "temporal-seal.exe"
	}
	files, err := open(filepath.Join(c.dist, name))
	if err != nil {
		return err
	}
	for _, want := range append(slices.Clone(inArchives), binary) {
		if len(files[want]) == 0 {
			return fmt.Errorf("%s is missing or empty in it", want)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(files[binary]))
	if err != nil {
		return err
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(name, ".tar.gz"), ".zip")
	if target := setting(info, "GOOS") + "_" + setting(info, "GOARCH"); !strings.HasSuffix(stem, "_"+target) {
		return fmt.Errorf("its binary is for %s", target)
	}
	if fips := setting(info, "GOFIPS140"); strings.Contains(name, "-fips_") != strings.HasPrefix(fips, "v1.") {
		return fmt.Errorf("its binary was built with GOFIPS140=%q", fips)
	}
	for _, m := range info.Deps {
		if !bytes.Contains(files["THIRD-PARTY-LICENSES"], []byte("\n"+m.Path+" "+m.Version+"\n")) {
			return fmt.Errorf("THIRD-PARTY-LICENSES lacks %s %s", m.Path, m.Version)
		}
	}
	if setting(info, "GOOS") != runtime.GOOS || setting(info, "GOARCH") != runtime.GOARCH {
		c.ok("%s: %d files, a binary for %s/%s, licenses of %d modules", name, len(files), setting(info, "GOOS"), setting(info, "GOARCH"), len(info.Deps))
		return nil
	}
	said, err := runs(files[binary])
	if err != nil {
		return err
	}
	if want := "temporal-seal v" + c.version + " "; !strings.HasPrefix(said, want) {
		return fmt.Errorf("it prints %q, and not %q", said, want)
	}
	c.ok("%s: %d files, licenses of %d modules; it runs: %s", name, len(files), len(info.Deps), said)
	return nil
}

// runs asks a binary for its version.
func runs(binary []byte) (string, error) {
	dir, err := os.MkdirTemp("", "releasecheck-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "temporal-seal")
	if err := os.WriteFile(path, binary, 0o700); err != nil {
		return "", err
	}
	out, err := exec.Command(path, "version").CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// sbom compares the components with the modules of the binary.
func (c *check) sbom(name string) error {
	var document struct {
		BOMFormat  string
		Components []struct{ Name, Version, PURL string }
	}
	if err := readJSON(filepath.Join(c.dist, name), &document); err != nil {
		return err
	}
	if document.BOMFormat != "CycloneDX" {
		return fmt.Errorf("its format is %q", document.BOMFormat)
	}
	archive := strings.TrimSuffix(name, ".cdx.json")
	open, binary := unpackTar, "temporal-seal"
	if strings.Contains(name, "_windows_") {
		open, binary, archive = unpackZip, "temporal-seal.exe", archive+".zip"
	} else {
		archive += ".tar.gz"
	}
	files, err := open(filepath.Join(c.dist, archive))
	if err != nil {
		return err
	}
	info, err := buildinfo.Read(bytes.NewReader(files[binary]))
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	for _, component := range document.Components {
		listed[component.Name+" "+component.Version] = true
	}
	for _, m := range info.Deps {
		if !listed[m.Path+" "+m.Version] {
			return fmt.Errorf("it does not list %s %s", m.Path, m.Version)
		}
	}
	c.ok("%s: lists all %d modules of the binary", name, len(info.Deps))
	return nil
}

// pack lists a package's files, by the tool of its distribution.
func (c *check) pack(name string) error {
	tool, args := "dpkg-deb", []string{"--contents"}
	if strings.HasSuffix(name, ".rpm") {
		tool, args = "rpm", []string{"-qlp", "--nosignature"}
	}
	if _, err := exec.LookPath(tool); err != nil {
		fmt.Printf("untried  %s: no %s here to look into it\n", name, tool)
		return nil
	}
	out, err := exec.Command(tool, append(args, filepath.Join(c.dist, name))...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, want := range []string{"/usr/bin/temporal-seal", "/usr/lib/systemd/system/temporal-seal.service",
		"/usr/share/doc/temporal-seal/THIRD-PARTY-LICENSES", "/usr/share/man/man1/temporal-seal.1"} {
		if !bytes.Contains(out, []byte(want+"\n")) {
			return fmt.Errorf("%s is missing in it:\n%s", want, out)
		}
	}
	c.ok("%s: binary, service, licenses, manual pages", name)
	return nil
}

// same compares with a second build.
func (c *check) same(again string, files map[string]string) error {
	equal := 0
	for _, name := range sorted(files) {
		sum, err := hash(filepath.Join(again, name))
		if err != nil {
			return err
		}
		if sum != files[name] {
			c.bad("%s: a second build has other bytes", name)
			continue
		}
		equal++
	}
	c.ok("a second build has the same bytes in %d files", equal)
	return nil
}

func sorted(files map[string]string) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func readJSON(file string, v any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func hash(file string) (string, error) {
	text, err := os.ReadFile(file)
	return fmt.Sprintf("%x", sha256.Sum256(text)), err
}

func unpackTar(file string) (map[string][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

func unpackZip(file string) (map[string][]byte, error) {
	r, err := zip.OpenReader(file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	files := map[string][]byte{}
	for _, member := range r.File {
		f, err := member.Open()
		if err != nil {
			return nil, err
		}
		files[member.Name], err = io.ReadAll(f)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}
