package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fault is one patch of testdata/faults.
type fault struct {
	name   string
	path   string
	breaks string
	tests  []string // of e2e/contract
	files  []string // that it changes, from the root
	// unit and unitTest are a package and its test, where nothing shows outside.
	unit, unitTest string
}

// readFaults reads the headers of all patches, in the order of their names.
func readFaults(folder string) ([]*fault, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.patch"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s holds no patches", folder)
	}
	slices.Sort(paths)
	var all []*fault
	for _, path := range paths {
		f, err := readFault(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, f)
	}
	return all, nil
}

func readFault(path string) (*fault, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	f := &fault{name: strings.TrimSuffix(filepath.Base(path), ".patch"), path: path}
	whyUnit := ""
	header := true
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if file, ok := strings.CutPrefix(line, "+++ b/"); ok {
			f.files = append(f.files, file)
		}
		header = header && !strings.HasPrefix(line, "diff ") && !strings.HasPrefix(line, "--- ")
		key, value, ok := strings.Cut(line, ": ")
		if !header || !ok {
			continue
		}
		switch key {
		case "Breaks":
			f.breaks = value
		case "Killed-by":
			f.tests = strings.Split(value, "|")
		case "Killed-by-unit":
			f.unit, f.unitTest, _ = strings.Cut(value, " ")
		case "Why-unit":
			whyUnit = value
		default:
			return nil, fmt.Errorf("the header has a line %q; it knows Breaks, Killed-by, Killed-by-unit and Why-unit", key)
		}
	}
	switch {
	case f.breaks == "":
		return nil, fmt.Errorf("the header has no line `Breaks: <rule>`")
	case len(f.tests) == 0 && f.unitTest == "":
		return nil, fmt.Errorf("the header has no line `Killed-by: <test of e2e/contract>`")
	case f.unitTest != "" && whyUnit == "":
		return nil, fmt.Errorf("Killed-by-unit needs a line `Why-unit: <reason>`")
	case len(f.files) == 0:
		return nil, fmt.Errorf("it changes no file")
	}
	return f, lines.Err()
}
