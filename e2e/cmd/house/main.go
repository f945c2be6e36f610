// Command house measures how easy the product's code is to live in: how much there is, what stands in
// comments, how large types and functions are, and how many files one call passes.
//
//	house -root . -limits testdata/house.txt          fails where a number is worse than its limit
//	house -root . -limits testdata/house.txt -record  tightens the limits to what was measured; it never loosens one
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	root := flag.String("root", ".", "`folder` of the module")
	limits := flag.String("limits", "testdata/house.txt", "`file` with the limits")
	record := flag.Bool("record", false, "tighten the limits")
	call := flag.Bool("call", true, "count the files that one call passes, for which a proxy is built and run")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *root, *limits, *record, *call); err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, root, limitsFile string, record, call bool) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	h, err := measure(root)
	if err != nil {
		return err
	}
	h.print(out)
	var files []string
	if call {
		var others int
		if files, others, err = oneCall(ctx, root); err != nil {
			return err
		}
		printList(out, "files of "+strings.Join(callFolders, " and ")+" that one call passes", files)
		fmt.Fprintf(out, "  and %d of other packages\n", others)
	}
	text, err := os.ReadFile(limitsFile)
	if err != nil {
		return err
	}
	rules, err := parseLimits(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", limitsFile, err)
	}
	now := h.numbers()
	if call {
		now["one-call"] = float64(len(files))
	}
	worse := rules.compare(now)
	if record {
		if err := os.WriteFile(limitsFile, []byte(rules.tightened(now)), 0o644); err != nil {
			return err
		}
	}
	h.summary(out, files, call)
	return errors.Join(worse...)
}

// numbers are what the limits name.
func (h *house) numbers() map[string]float64 {
	sum := h.total()
	return map[string]float64{
		"kilobytes":       float64(sum.bytes) / 1024,
		"comments":        sum.share(),
		"methods":         float64(h.largest(1, methods)[0].methods),
		"fields":          float64(h.largest(1, fields)[0].fields),
		"function":        float64(h.longestFunctions(1)[0].lines),
		"line":            float64(h.longest.n),
		"many-parameters": float64(len(h.manyParams())),
		"embedded":        float64(len(h.embedded)),
	}
}

func methods(t *typeSize) int { return t.methods }
func fields(t *typeSize) int  { return t.fields }

func (h *house) print(out io.Writer) {
	fmt.Fprintf(out, "%-32s %8s %9s %8s\n", "package", "KB", "comments", "lines")
	row := func(name string, s size) {
		fmt.Fprintf(out, "%-32s %8.1f %7.1f %% %8d\n", name, float64(s.bytes)/1024, s.share(), s.lines)
	}
	for _, name := range slices.Sorted(maps.Keys(h.packages)) {
		row(name, *h.packages[name])
	}
	row("total", h.total())

	fmt.Fprintf(out, "\n%-50s %8s %8s\n", "largest types", "methods", "fields")
	for _, t := range h.largest(5, methods) {
		fmt.Fprintf(out, "%-50s %8d %8d\n", t.name, t.methods, t.fields)
	}
	fmt.Fprintln(out, "and those with the most fields")
	for _, t := range h.largest(5, fields) {
		fmt.Fprintf(out, "%-50s %8d %8d\n", t.name, t.methods, t.fields)
	}
	fmt.Fprintln(out, "\nlongest functions")
	for _, f := range h.longestFunctions(5) {
		fmt.Fprintf(out, "%4d lines  %s\n", f.lines, f.where)
	}
	var many []string
	for _, f := range h.manyParams() {
		many = append(many, fmt.Sprintf("%d: %s", f.params, f.where))
	}
	printList(out, fmt.Sprintf("functions with more than %d parameters", usualParams), many)
	fmt.Fprintf(out, "\nlines above %d characters: %d; the longest has %d: %s\n", usualLine, h.wide, h.longest.n, h.longest.where)
	var embedded []string
	for _, e := range h.embedded {
		embedded = append(embedded, e.where)
	}
	printList(out, "embedded fields", embedded)
}

func printList(out io.Writer, title string, list []string) {
	fmt.Fprintf(out, "\n%s: %d\n", title, len(list))
	for _, l := range list {
		fmt.Fprintln(out, " ", l)
	}
}

// summary is the last line, which scripts read.
func (h *house) summary(out io.Writer, files []string, call bool) {
	sum := h.total()
	fmt.Fprintf(out, "house: %.0f KB, %d lines, %d packages, largest type %d methods, longest function %d lines, ",
		float64(sum.bytes)/1024, sum.lines, len(h.packages), h.largest(1, methods)[0].methods, h.longestFunctions(1)[0].lines)
	if !call {
		fmt.Fprintln(out, "one call not counted")
		return
	}
	fmt.Fprintf(out, "one call %d files\n", len(files))
}
