package harness

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// PythonPackages installs packages from PyPI into a virtual environment of the user's cache folder, unless one with this
// name is there, and returns its Python. A name stands for a set of packages: new versions need a new name.
func PythonPackages(ctx context.Context, progress io.Writer, name string, packages ...string) (python string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "temporal-seal", name)
	done, python := filepath.Join(dir, "installed"), filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(done); err == nil {
		return python, nil
	}
	_, _ = fmt.Fprintf(progress, "installing %v from PyPI into %s\n", packages, dir)
	pip := append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"}, packages...)
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(ctx, "python3", "-m", "venv", "--clear", dir), // what a broken installation left behind goes first
		exec.CommandContext(ctx, python, pip...),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return python, os.WriteFile(done, nil, 0o600)
}
