package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of STYLE that are printed in full; the ratchet holds the totals.
const (
	usualLine   = 110 // characters
	usualParams = 6
)

// house is what the product's code measures.
type house struct {
	packages  map[string]*size // by folder in the repository
	types     map[string]*typeSize
	functions []function
	longest   place // the longest line
	wide      int   // lines above usualLine
	embedded  []place
}

// size is how much code there is.
type size struct {
	bytes    int // without comments and blank lines
	lines    int // all
	filled   int // lines that are not blank
	comments int // lines with nothing but a comment
}

// typeSize is a type with its own methods and fields; those of embedded types do not count.
type typeSize struct {
	name            string
	methods, fields int
}

type function struct {
	place
	lines, params int
}

// place is something that was counted, and where it stands.
type place struct {
	where string
	n     int
}

// measure reads the product's code below root: not tests, not generated code, and no other module than codec.
func measure(root string) (*house, error) {
	h := &house{packages: map[string]*size{}, types: map[string]*typeSize{}}
	files, err := sources(root)
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		src, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		if err := h.file(name, src); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func sources(root string) (files []string, err error) {
	for _, top := range []string{".", "cmd", "internal", "codec"} {
		err := fs.WalkDir(os.DirFS(root), top, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || top == "." && name != "."):
				return fs.SkipDir
			case !d.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
				files = append(files, name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// file adds one file.
func (h *house) file(name string, src []byte) error {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(parsed) {
		return nil
	}
	folder := path.Dir(name)
	if h.packages[folder] == nil {
		h.packages[folder] = &size{}
	}
	h.packages[folder].add(src)
	for i, line := range strings.Split(string(src), "\n") {
		n := utf8.RuneCountInString(line)
		if n > usualLine {
			h.wide++
		}
		if n > h.longest.n {
			h.longest = place{fmt.Sprintf("%s:%d", name, i+1), n}
		}
	}
	for _, d := range parsed.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			h.function(set, folder, d)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if t, ok := s.(*ast.TypeSpec); ok {
					h.typeOf(folder, t.Name.Name).fields = numFields(t.Type)
				}
			}
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if s, ok := n.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				if len(f.Names) == 0 {
					h.embedded = append(h.embedded, place{set.Position(f.Pos()).String(), 1})
				}
			}
		}
		return true
	})
	return nil
}

// add counts a file's text. Comments are found by the scanner, so that what looks like one within a string
// is code.
func (s *size) add(src []byte) {
	code := bytes.Clone(src)
	set := token.NewFileSet()
	file := set.AddFile("", -1, len(src))
	var scan scanner.Scanner
	scan.Init(file, src, nil, scanner.ScanComments)
	for {
		pos, tok, text := scan.Scan()
		if tok == token.EOF {
			break
		}
		if tok == token.COMMENT {
			at := file.Offset(pos)
			for i := at; i < at+len(text) && i < len(code); i++ {
				if code[i] != '\n' {
					code[i] = ' '
				}
			}
		}
	}
	all, left := bytes.Split(src, []byte("\n")), bytes.Split(code, []byte("\n"))
	for i := range all {
		s.lines++
		if len(bytes.TrimSpace(all[i])) == 0 {
			continue
		}
		s.filled++
		if line := bytes.TrimRight(left[i], " \t\r"); len(line) > 0 {
			s.bytes += len(line) + 1
		} else {
			s.comments++
		}
	}
	s.lines-- // what follows the last line break is none
}

func (s *size) share() float64 { return 100 * float64(s.comments) / float64(max(s.filled, 1)) }

func (h *house) typeOf(folder, name string) *typeSize {
	full := path.Join(folder, name)
	if h.types[full] == nil {
		h.types[full] = &typeSize{name: full}
	}
	return h.types[full]
}

func (h *house) function(set *token.FileSet, folder string, d *ast.FuncDecl) {
	name := d.Name.Name
	if d.Recv != nil {
		receiver := receiverName(d.Recv.List[0].Type)
		h.typeOf(folder, receiver).methods++
		name = receiver + "." + name
	}
	from, to := set.Position(d.Pos()), set.Position(d.End())
	h.functions = append(h.functions, function{
		place:  place{fmt.Sprintf("%s:%d %s", from.Filename, from.Line, name), 1},
		lines:  to.Line - from.Line + 1,
		params: d.Type.Params.NumFields(),
	})
}

func receiverName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiverName(e.X)
	case *ast.IndexExpr:
		return receiverName(e.X)
	case *ast.IndexListExpr:
		return receiverName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

func numFields(e ast.Expr) (n int) {
	if s, ok := e.(*ast.StructType); ok {
		for _, f := range s.Fields.List {
			n += max(1, len(f.Names))
		}
	}
	return n
}

// total adds the packages up.
func (h *house) total() (sum size) {
	for _, p := range h.packages {
		sum.bytes += p.bytes
		sum.lines += p.lines
		sum.filled += p.filled
		sum.comments += p.comments
	}
	return sum
}

// largest returns the types with the most of what size returns.
func (h *house) largest(n int, size func(*typeSize) int) []*typeSize {
	all := make([]*typeSize, 0, len(h.types))
	for _, t := range h.types {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *typeSize) int { return cmp.Or(size(b)-size(a), strings.Compare(a.name, b.name)) })
	return all[:min(n, len(all))]
}

func (h *house) longestFunctions(n int) []function {
	all := slices.Clone(h.functions)
	slices.SortFunc(all, func(a, b function) int { return cmp.Or(b.lines-a.lines, strings.Compare(a.where, b.where)) })
	return all[:min(n, len(all))]
}

// manyParams returns the functions with more parameters than usual.
func (h *house) manyParams() (all []function) {
	for _, f := range h.functions {
		if f.params > usualParams {
			all = append(all, f)
		}
	}
	return all
}
