package config

import (
	"embed"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"sync"
)

// source are this package's files with YAML types. Their comments describe the keys.
//
//go:embed config.go listeners.go callers.go upstreams.go keys.go foreign.go policy.go audit.go
//go:embed drain.go limits.go codecserver.go observe.go
var source embed.FS

// comments returns the comments of all fields, by `Type.Field`.
var comments = sync.OnceValue(func() map[string]string {
	found := map[string]string{}
	files, err := source.ReadDir(".")
	for _, f := range files {
		text, _ := source.ReadFile(f.Name()) // embedded, as ReadDir says
		parsed, failed := parser.ParseFile(token.NewFileSet(), f.Name(), text, parser.ParseComments)
		err = errors.Join(err, failed)
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				for _, field := range spec.Type.(*ast.StructType).Fields.List {
					found[spec.Name.Name+"."+field.Names[0].Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
			return true
		})
	}
	if err != nil {
		panic(err) // the compiler has read these files
	}
	return found
})

// key is one key of a mapping in the config file.
type key struct {
	name     string
	typ      reflect.Type // without a pointer
	comment  string
	required bool
	// standard is the YAML that stands for a key that is left out, otherwise a description of what
	// happens then.
	standard, otherwise string
	values              []string // all that there are; nil: any
	unit                string
}

// keysOf returns the keys of a mapping that is decoded into a struct of type t.
func keysOf(t reflect.Type) []key {
	all := make([]key, t.NumField())
	for i := range all {
		f := t.Field(i)
		k := key{name: f.Tag.Get("yaml"), typ: f.Type, comment: comments()[t.Name()+"."+f.Name],
			required: f.Tag.Get("required") == "true", standard: f.Tag.Get("default"),
			otherwise: f.Tag.Get("otherwise"), unit: f.Tag.Get("unit")}
		if k.typ.Kind() == reflect.Pointer {
			k.typ = k.typ.Elem()
		}
		if values, closed := f.Tag.Lookup("enum"); closed {
			k.values = strings.Split(values, ",")
		}
		all[i] = k
	}
	return all
}

// mapping returns the struct of the mappings that the key holds, one or a list of them; nil for other values.
func (k *key) mapping() reflect.Type {
	t := k.typ
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return t
}
