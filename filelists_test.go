package temporalseal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var goFile = regexp.MustCompile(`[\w/]+\.go\b`)

// TestFileLists: where the comment of a package lists its files, it lists all of them, so that a reader who looks for
// something finds its place.
func TestFileLists(t *testing.T) {
	lists := 0
	check := func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return err
		}
		comment, own := "", []string{}
		for _, path := range files {
			name := filepath.Base(path)
			if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
				continue
			}
			own = append(own, name)
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				return err
			}
			comment += f.Doc.Text()
		}
		named := make(map[string]bool)
		for _, name := range goFile.FindAllString(comment, -1) {
			named[name] = true
		}
		var missing []string
		for _, name := range own {
			if !named[name] && name != "doc.go" {
				missing = append(missing, name)
			}
		}
		if len(own)-len(missing) < 2 { // no list
			return nil
		}
		lists++
		if len(missing) > 0 {
			t.Errorf("the comment of %s lists its files, and not %s: add what they hold", dir, strings.Join(missing, ", "))
		}
		return nil
	}
	for _, root := range []string{"cmd", "internal"} {
		if err := filepath.WalkDir(root, check); err != nil {
			t.Fatal(err)
		}
	}
	if lists < 15 {
		t.Errorf("%d packages with a list of their files were found, want at least 15", lists)
	}
}
