package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// section is a mapping of the config file, under all paths at which it occurs.
type section struct {
	typ   reflect.Type
	paths []string
}

// Reference returns the description of all keys in Markdown, a table for each mapping.
func Reference() string {
	sections := sectionsOf(nil, reflect.TypeFor[Config](), "")
	var b strings.Builder
	for _, s := range sections {
		fmt.Fprintf(&b, "### %s\n\n", s.heading())
		if len(s.paths) > 1 {
			fmt.Fprintf(&b, "The same keys are those of `%s`.\n\n", strings.Join(s.paths[1:], "`, `"))
		}
		b.WriteString("| key | type | required | default | description |\n|---|---|---|---|---|\n")
		for _, k := range keysOf(s.typ) {
			required, standard := "no", k.otherwise
			if k.required {
				required = "yes"
			}
			if k.standard != "" {
				standard = "`" + k.standard + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n",
				k.name, k.typeName(sections), required, standard, k.comment)
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// sectionsOf adds the mapping of type t, and the mappings below it, to all.
func sectionsOf(all []*section, t reflect.Type, path string) []*section {
	i := slices.IndexFunc(all, func(s *section) bool { return s.typ == t })
	if i < 0 {
		i, all = len(all), append(all, &section{typ: t})
	}
	all[i].paths = append(all[i].paths, path)
	for _, k := range keysOf(t) {
		below := strings.TrimPrefix(path+"."+k.name, ".")
		if k.typ.Kind() == reflect.Slice {
			below += "[]"
		}
		if m := k.mapping(); m != nil {
			all = sectionsOf(all, m, below)
		}
	}
	return all
}

// heading names the first path of the mapping.
func (s *section) heading() string {
	if s.paths[0] == "" {
		return "Top level"
	}
	return "`" + s.paths[0] + "`"
}

// anchor is how Markdown renderers name a heading in links.
func (s *section) anchor() string {
	inLinks := strings.NewReplacer("`", "", "[", "", "]", "", ".", "", " ", "-")
	return inLinks.Replace(strings.ToLower(s.heading()))
}

// typeName describes the type of a key's values, with a link to the section of a mapping.
func (k *key) typeName(sections []*section) string {
	text := "string"
	switch {
	case k.values != nil:
		return "`" + strings.Join(k.values, "`, `") + "`"
	case k.typ == durationType:
		return "duration"
	case k.typ.Kind() == reflect.Bool:
		return "true or false"
	case k.typ.Kind() == reflect.Int:
		return "number of " + k.unit
	case k.typ.Kind() == reflect.Map:
		return "mapping of names to strings"
	case k.mapping() != nil:
		text = "mapping"
	}
	if k.typ.Kind() == reflect.Slice {
		text = "list of " + text + "s"
	}
	if m := k.mapping(); m != nil {
		i := slices.IndexFunc(sections, func(s *section) bool { return s.typ == m })
		return fmt.Sprintf("[%s](#%s)", text, sections[i].anchor())
	}
	return text
}
