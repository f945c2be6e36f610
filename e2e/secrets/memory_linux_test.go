package secrets

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

const nobody = 65534

// TestMemoryIsClosed: a user who runs the proxy can read neither its memory nor its environment, and no core may be written.
func TestMemoryIsClosed(t *testing.T) {
	bin, dir := copied(t)
	asNobody := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir = dir
		if os.Getuid() == 0 { // root may read everything, so the test is another user's
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
		}
		return cmd
	}
	proxy := asNobody(exec.Command(bin, "--upstream", upstream, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"))
	log := harness.NewLog()
	proxy.Stderr = log
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = proxy.Wait() }()
	t.Cleanup(func() { _ = proxy.Process.Kill(); <-ended })
	if _, err := log.Await(t.Context(), ended, func(line map[string]any) bool { return line["msg"] == "serving" }); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	other := asNobody(exec.Command("sleep", "60"))
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	read := func(pid int, file string) error {
		return asNobody(exec.Command("head", "-c", "1", fmt.Sprintf("/proc/%d/%s", pid, file))).Run()
	}
	for _, file := range []string{"environ", "maps", "auxv"} {
		if err := read(other.Process.Pid, file); err != nil {
			t.Fatalf("another process's %s: %v: the test cannot tell anything", file, err)
		}
		if err := read(proxy.Process.Pid, file); err == nil {
			t.Errorf("/proc/<pid>/%s can be read by the proxy's own user", file)
		}
	}
	if err := asNobody(exec.Command("dd", fmt.Sprintf("if=/proc/%d/mem", proxy.Process.Pid), "of=/dev/null", "bs=1", "count=1")).Run(); err == nil {
		t.Error("its memory can be opened by its own user")
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", proxy.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") && strings.Join(strings.Fields(line)[4:6], " ") != "0 0" {
			t.Errorf("cores may be written: %s", line)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "temporal-seal.key")); err != nil {
		t.Errorf("the proxy did not work as it should: %v", err)
	}
}

// copied puts the binary where another user may run it, into a folder of theirs.
func copied(t *testing.T) (bin, dir string) {
	t.Helper()
	built, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = os.MkdirTemp("", "memory"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin = filepath.Join(dir, "proxy")
	if err := os.WriteFile(bin, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return bin, dir
}
