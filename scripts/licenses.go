//go:build ignore

// Licenses prints the licenses of all that is compiled into a program, on any system that releases are for: those of Go
// and of each module, with the modules' notices. A module without a license is an error.
//
//	go run scripts/licenses.go ./cmd/proxy
package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// systems are those that releases are for.
var systems = []string{"linux", "darwin", "windows"}

// without are modules whose published source has no file with a license, and what the output says of them.
var without = map[string]string{
	"github.com/nexus-rpc/nexus-proto-annotations": "The module's source has no file with a license. It is published at " +
		"https://github.com/nexus-rpc/nexus-proto-annotations",
}

var license = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "licenses: %v\n", err)
		os.Exit(1)
	}
}

func run(packages []string) error {
	modules, err := find(packages)
	if err != nil {
		return err
	}
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	goroot := strings.TrimSpace(string(out))
	fmt.Printf("Licenses and notices of what is compiled into temporal-seal.\n")
	if err := show("Go "+strings.TrimPrefix(runtime.Version(), "go"), []string{filepath.Join(goroot, "LICENSE")}); err != nil {
		return err
	}
	names := make([]string, 0, len(modules))
	for name := range modules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path, _, _ := strings.Cut(name, " ")
		switch note := without[path]; {
		case len(modules[name]) == 0 && note == "":
			return fmt.Errorf("%s has no file with a license: find out which one it has, and list it in scripts/licenses.go", name)
		case len(modules[name]) == 0:
			fmt.Printf("\n%s\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), name, strings.Repeat("-", 80), note)
			continue
		}
		if err := show(name, modules[name]); err != nil {
			return err
		}
	}
	return nil
}

// find returns the files with licenses of each module that the packages need: those of its root, and of the folders
// down to each package that is used, which may hold code of others.
func find(packages []string) (map[string][]string, error) {
	modules := map[string][]string{}
	for _, system := range systems {
		cmd := exec.Command("go", append([]string{"list", "-deps", "-f",
			"{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}\t{{.Dir}}"}, packages...)...)
		cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		for line := range strings.Lines(string(out)) {
			fields := strings.Split(strings.TrimSpace(line), "\t")
			if len(fields) != 3 {
				continue // of Go itself, or of the main module
			}
			for dir := fields[2]; ; dir = filepath.Dir(dir) {
				files, err := os.ReadDir(dir)
				if err != nil {
					return nil, err
				}
				modules[fields[0]] = append(modules[fields[0]], licenses(dir, files)...)
				if dir == fields[1] {
					break
				}
			}
		}
	}
	for name, files := range modules {
		slices.Sort(files)
		modules[name] = slices.Compact(files)
	}
	return modules, nil
}

func licenses(dir string, files []fs.DirEntry) (found []string) {
	for _, f := range files {
		if !f.IsDir() && license.MatchString(f.Name()) && !strings.HasSuffix(f.Name(), ".go") {
			found = append(found, filepath.Join(dir, f.Name()))
		}
	}
	return found
}

func show(name string, files []string) error {
	fmt.Printf("\n%s\n%s\n", strings.Repeat("=", 80), name)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		fmt.Printf("%s\n\n%s\n", strings.Repeat("-", 80), strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")))
	}
	return nil
}
