package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

var (
	code    = regexp.MustCompile("`([^`]+)`")
	quoted  = regexp.MustCompile("(?:[Mm]essage|log line) `([^`]+)`")
	columns = regexp.MustCompile(`in the log`)
)

// TestMessages looks for each message of the log that a document quotes among the texts of the product: those in the
// column `in the log` of a table, and those behind the word message.
func TestMessages(t *testing.T) {
	texts := literals(t)
	for _, d := range documents(t) {
		column := -1
		for i, line := range d.lines {
			var found []string
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				found = append(found, m[1])
			}
			cells := strings.Split(line, " | ")
			switch {
			case !strings.HasPrefix(line, "|"):
				column = -1
			case columns.MatchString(line) && strings.HasPrefix(d.lines[i+1], "|---"):
				for n, cell := range cells {
					if columns.MatchString(cell) {
						column = n
					}
				}
			case column >= 0 && column < len(cells):
				for _, m := range code.FindAllStringSubmatch(cells[column], -1) {
					found = append(found, m[1])
				}
			}
			for _, message := range found {
				if !strings.Contains(message, " ") {
					continue // a field or its value
				}
				counted.messages++
				if !strings.Contains(texts, message) {
					t.Errorf("%s:%d: the product has no text %q", d.name, i+1, message)
				}
			}
		}
	}
	if counted.messages < 10 {
		t.Errorf("only %d messages were found", counted.messages)
	}
}

// literals are the texts in the product's code, a line each.
func literals(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(harness.Root(), dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BinaryExpr: // a text in several pieces
					b.WriteString(joined(n) + "\n")
				case *ast.BasicLit:
					b.WriteString(joined(n) + "\n")
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// joined is the text of a literal, or of a sum of literals.
func joined(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return joined(e.X) + joined(e.Y)
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	}
	return ""
}
