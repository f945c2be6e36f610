package harness

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// QuotedMessages returns what the documents quote of the log, and complaints about quotes that no text of the product's code
// contains. A quote is a code span in a column "in the log", a code span of five words or more that is no command, or the message of
// a log line in a block.
func QuotedMessages() (quoted, missing []string, err error) {
	texts, err := productTexts()
	if err != nil {
		return nil, nil, err
	}
	documents, err := filepath.Glob(filepath.Join(Root(), "docs", "*.md"))
	if err != nil {
		return nil, nil, err
	}
	for _, file := range append(documents, filepath.Join(Root(), "README.md")) {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		for _, q := range quotesIn(string(b)) {
			quoted = append(quoted, q)
			if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, q) }) {
				missing = append(missing, fmt.Sprintf("%s quotes %q, which the product does not log", filepath.Base(file), q))
			}
		}
	}
	return quoted, missing, nil
}

var (
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	sentence  = regexp.MustCompile(`^[A-Za-z][A-Za-z',;: -]*$`)
	logLine   = regexp.MustCompile(`"msg":"([^"]+)"|\bmsg="([^"]+)"`)
	noMessage = []string{"make", "temporal-seal", "temporal", "go", "kubectl", "docker", "package", "vault", "aws", "helm", "bin"}
)

// quotesIn returns what a document quotes of the log.
func quotesIn(text string) (quotes []string) {
	column, block := -1, false // the column of the table whose head is "in the log"
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			block = !block
		}
		for _, m := range logLine.FindAllStringSubmatch(line, -1) {
			quotes = append(quotes, m[1]+m[2])
		}
		if block {
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			column = -1
		} else if i := slices.IndexFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "in the log" }); i >= 0 {
			column = i
		} else if column >= 0 && column < len(cells) {
			for _, m := range codeSpan.FindAllStringSubmatch(cells[column], -1) {
				quotes = append(quotes, m[1])
			}
		}
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			words := strings.Fields(m[1])
			if len(words) >= 5 && sentence.MatchString(m[1]) && !slices.Contains(noMessage, words[0]) {
				quotes = append(quotes, m[1])
			}
		}
	}
	return quotes
}

// productTexts returns the string constants of the product's code, those that are put together by + as one.
func productTexts() (texts []string, err error) {
	for _, dir := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(Root(), dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				e, ok := n.(ast.Expr)
				if !ok {
					return true
				}
				text, ok := constantText(e)
				if ok {
					texts = append(texts, text)
				}
				return !ok
			})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return texts, nil
}

func constantText(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		left, ok := constantText(e.X)
		right, also := constantText(e.Y)
		return left + right, ok && also && e.Op == token.ADD
	}
	return "", false
}
