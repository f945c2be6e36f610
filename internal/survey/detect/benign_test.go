package detect

import (
	"bufio"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// mayFind are the findings in texts that nobody made for this test, per 100,000, at most: what is not here is never found.
// All but those of random text are right: addresses of authors, and examples of keys and passwords in comments.
var mayFind = map[string]int{
	"e-mail address": 15, "random text": 10, "password in a URL": 4, "password in an assignment": 2, "credential of an HTTP header": 2, "key of AWS": 2,
}

// enough ends the search for texts.
const enough = 120_000

// TestBenignTexts searches more than 100,000 texts of programs: the literals and comments in the source of Go and of the modules that
// this one needs, without those of tests, and its checksums.
func TestBenignTexts(t *testing.T) {
	texts := benign(t)
	if len(texts) < 100_000 {
		t.Fatalf("only %d texts", len(texts))
	}
	found, examples := map[string]int{}, map[string][]string{}
	for text := range texts {
		for _, f := range new(Detector).Text(text) {
			found[f.What]++
			if len(examples[f.What]) < 30 && len(text) < 200 {
				examples[f.What] = append(examples[f.What], text)
			}
		}
	}
	for what, n := range found {
		t.Logf("%d of %d: %s", n, len(texts), what)
		if limit := mayFind[what] * len(texts) / 100_000; n > limit {
			t.Errorf("%s: found %d times in %d texts, more than %d: %q", what, n, len(texts), limit, examples[what])
		}
	}
}

// benign returns the texts, each once.
func benign(t *testing.T) map[string]bool {
	t.Helper()
	texts := map[string]bool{}
	list := exec.Command("go", "list", "-deps", "-f", "{{.Dir}}", "./...", "std")
	list.Dir = filepath.Join("..", "..", "..")
	folders, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for folder := range strings.FieldsSeq(string(folders)) {
		if len(texts) > enough {
			break
		}
		if strings.Contains(folder, "/internal/survey") {
			continue
		}
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				literals(t, file, texts)
			}
		}
	}
	sums, err := os.Open(filepath.Join("..", "..", "..", "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	defer sums.Close()
	for lines := bufio.NewScanner(sums); lines.Scan(); {
		for text := range strings.FieldsSeq(lines.Text()) {
			texts[text] = true
		}
	}
	return texts
}

// literals adds the literals of a file: strings, numbers, and the lines of comments.
func literals(t *testing.T, file string, texts map[string]bool) {
	t.Helper()
	source, err := fs.ReadFile(os.DirFS(filepath.Dir(file)), filepath.Base(file))
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	var s scanner.Scanner
	s.Init(files.AddFile(file, -1, len(source)), source, nil, scanner.ScanComments)
	for {
		_, kind, literal := s.Scan()
		switch kind {
		case token.EOF:
			return
		case token.STRING:
			if text, err := strconv.Unquote(literal); err == nil {
				texts[text] = true
			}
		case token.INT, token.FLOAT:
			texts[literal] = true
		case token.COMMENT:
			for line := range strings.Lines(literal) {
				texts[strings.TrimSpace(line)] = true
			}
		}
	}
}
