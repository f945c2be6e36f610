package peers

import (
	"os/exec"
	"strings"
	"testing"
)

func TestBuildCLI(t *testing.T) {
	bin, err := BuildCLI(t.Context(), testLog{t})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), bin, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Server ") {
		t.Errorf("%v: %s", err, out)
	}
	again, err := BuildCLI(t.Context(), testLog{t})
	if err != nil || again != bin {
		t.Errorf("a second time: %q, %v", again, err)
	}
}
