package abuse

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// memoryLimit is what the proxy's process may hold, in bytes, as in a container of 512 MiB.
const memoryLimit = 512 << 20

// limiter ends a process that takes more memory than it may.
type limiter struct {
	name string // as the last line prints it
	dir  string // of the cgroup; empty for prlimit
	v2   bool

	watched bool // this process ends the proxy
	ended   atomic.Int32
}

const (
	prlimit = "prlimit --data"
	watched = "watched resident memory"
)

// newLimiter makes a memory cgroup, of version 2 or 1. Where neither can be made, it falls back to a limit of the data segment,
// and where that cannot be set to a look at the resident memory every few milliseconds. SEAL_ABUSE_LIMITER chooses
// one of the latter two.
func newLimiter() (*limiter, error) {
	switch only := os.Getenv(limiterVariable); only {
	case prlimit:
		return &limiter{name: prlimit}, nil
	case watched:
		return &limiter{name: watched, watched: true}, nil
	case "":
	default:
		return nil, fmt.Errorf("%s: %q is neither %q nor %q", limiterVariable, only, prlimit, watched)
	}
	name := fmt.Sprintf("temporal-seal-abuse-%d", os.Getpid())
	for _, l := range []*limiter{
		{name: "cgroup v2", dir: filepath.Join("/sys/fs/cgroup", name), v2: true},
		{name: "cgroup v1", dir: filepath.Join("/sys/fs/cgroup/memory", name)},
	} {
		if l.create() == nil {
			return l, nil
		}
		_ = os.Remove(l.dir)
	}
	if _, err := exec.LookPath("prlimit"); err != nil {
		return &limiter{name: watched, watched: true}, nil
	}
	return &limiter{name: prlimit}, nil
}

// watch ends a process that goes beyond the limit, where nothing else does. The kernel ends one that is in a cgroup, and gives one
// with prlimit no more memory.
func (l *limiter) watch(pid int, done <-chan struct{}) {
	if !l.watched {
		return
	}
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if _, now := resident(pid); now > memoryLimit {
				l.ended.Add(1)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				return
			}
		}
	}()
}

func (l *limiter) create() error {
	if _, err := os.Stat(filepath.Join(filepath.Dir(l.dir), map[bool]string{true: "cgroup.controllers", false: "memory.limit_in_bytes"}[l.v2])); err != nil {
		return err
	}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return err
	}
	files := map[string]string{"memory.limit_in_bytes": strconv.Itoa(memoryLimit)}
	if l.v2 {
		files = map[string]string{"memory.max": strconv.Itoa(memoryLimit), "memory.swap.max": "0"}
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(l.dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// wrap returns a command that runs the program under the limit.
func (l *limiter) wrap(program string) (path string, args []string) {
	switch {
	case l.watched:
		return program, nil
	case l.dir == "":
		return "prlimit", []string{fmt.Sprintf("--data=%d", memoryLimit), program}
	}
	return "sh", []string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(l.dir, "cgroup.procs"), program}
}

// kills is how often the limit ended a process.
func (l *limiter) kills() int {
	if l.dir == "" {
		return int(l.ended.Load())
	}
	file := "memory.oom_control"
	if l.v2 {
		file = "memory.events"
	}
	text, _ := os.ReadFile(filepath.Join(l.dir, file))
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == "oom_kill" {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

func (l *limiter) remove() {
	if l.dir != "" {
		_ = os.Remove(l.dir)
	}
}

// resident is the peak resident memory of a process since its start or the last reset, and what it holds now, in bytes.
func resident(pid int) (peak, now int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmHWM:":
			peak = n << 10
		case "VmRSS:":
			now = n << 10
		}
	}
	return peak, now
}

// resetPeak makes the peak start again from what the process holds now.
func resetPeak(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o644)
}
