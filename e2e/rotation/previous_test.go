package rotation

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// previousRelease is the commit of the release before this one: what it sealed has to open here, and what is sealed here
// has to open there. At each release it moves on to the one before. Until the first one it is the commit that gave the
// envelope its released format: nothing was released with the draft of it, and no reader of the draft is needed.
const previousRelease = "0f3c8bd"

// previousProxy builds the previous release's proxy from the repository's history, once for each user's cache folder.
func previousProxy(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "temporal-seal", "proxy-"+previousRelease)
	bin := filepath.Join(dir, "proxy")
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	git := exec.Command("git", "archive", "--format=tar", previousRelease, "--", ":!e2e", ":!demo")
	git.Dir = harness.Root()
	var stderr bytes.Buffer
	git.Stderr = &stderr
	archive, err := git.Output()
	if err != nil {
		t.Skipf("the previous release (%s) is not in the history of this checkout, or there is no git: %v: %s", previousRelease, err, strings.TrimSpace(stderr.String()))
	}
	source := t.TempDir()
	if err := unpack(archive, source); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-o", bin+".new", "./cmd/proxy")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the previous release: %v\n%s", err, out)
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		t.Fatal(err)
	}
	return bin
}

func unpack(archive []byte, into string) error {
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		path := filepath.Join(into, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			var text []byte
			if text, err = io.ReadAll(r); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644))
			}
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
}
