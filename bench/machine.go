package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine describes what a run was measured on and what it measured, for a document: results without that cannot be compared.
func machine(ctx context.Context, binary string) (string, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("%s does not say which Go built it: %w", binary, err)
	}
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("git does not say which commit this is: %w", err)
	}
	changed := ""
	if err := exec.CommandContext(ctx, "git", "diff", "--quiet", "HEAD", "--", "cmd", "internal", "bench", "go.mod").Run(); err != nil {
		changed = " with changes"
	}
	rows := [][2]string{
		{"CPU", cpuModel(ctx)},
		{"cores", strconv.Itoa(runtime.NumCPU())},
		{"memory", memory()},
		{"system", runtime.GOOS + "/" + runtime.GOARCH},
		{"Go", strings.TrimPrefix(info.GoVersion, "go")},
		{"commit", strings.TrimSpace(string(commit)) + changed},
		{"date", time.Now().UTC().Format(time.DateOnly)},
	}
	text := "| measured on | |\n|---|---|\n"
	for _, row := range rows {
		text += fmt.Sprintf("| %s | %s |\n", row[0], row[1])
	}
	return text, nil
}

const unknown = "unknown"

var (
	cpuName     = regexp.MustCompile(`(?m)^(?:model name|Model|CPU part)\s*:\s*(.+)$`)
	totalMemory = regexp.MustCompile(`(?m)^MemTotal:\s*([0-9]+) kB$`)
)

// cpuModel returns the processor's name, from Linux or macOS.
func cpuModel(ctx context.Context) string {
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := cpuName.FindSubmatch(text); m != nil {
			return string(m[1])
		}
	}
	if out, err := exec.CommandContext(ctx, "sysctl", "-n", "machdep.cpu.brand_string").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return unknown
}

// memory returns how much memory a Linux machine has.
func memory() string {
	text, err := os.ReadFile("/proc/meminfo")
	if m := totalMemory.FindSubmatch(text); err == nil && m != nil {
		if kilobytes, err := strconv.Atoi(string(m[1])); err == nil {
			return fmt.Sprintf("%.1f GiB", float64(kilobytes)/(1<<20))
		}
	}
	return unknown
}
