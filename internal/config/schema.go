package config

import (
	"reflect"

	"github.com/goccy/go-yaml"
)

// durationPattern matches what parseDuration reads, apart from signs.
const durationPattern = `^(0|[0-9]{1,6}d|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+)$`

// Schema returns the JSON schema (draft 2020-12) of the config file, ready to be encoded.
func Schema() map[string]any {
	definitions := map[string]any{}
	root := mappingSchema(reflect.TypeFor[Config](), definitions)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Config file of temporal-seal"
	root["$defs"] = definitions
	return root
}

// mappingSchema describes a mapping, and adds the mappings below it to definitions.
func mappingSchema(t reflect.Type, definitions map[string]any) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, k := range keysOf(t) {
		s := typeSchema(k.typ, definitions)
		s["description"] = k.description()
		if k.standard != "" {
			var value any
			if yaml.Unmarshal([]byte(k.standard), &value) == nil { // a test reads all of them
				s["default"] = value
			}
		}
		if k.values != nil {
			s["enum"] = k.values
		}
		if k.required {
			required = append(required, k.name)
		}
		properties[k.name] = s
	}
	s := map[string]any{
		"type": "object", "properties": properties, "additionalProperties": false, "required": required}
	if t == reflect.TypeFor[Callers]() { // exactly one kind
		s["minProperties"], s["maxProperties"] = 1, 1
	}
	return s
}

func typeSchema(t reflect.Type, definitions map[string]any) map[string]any {
	switch {
	case t == durationType:
		return map[string]any{"type": "string", "pattern": durationPattern}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int:
		return map[string]any{"type": "integer", "minimum": 1}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": typeSchema(t.Elem(), definitions)}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": typeSchema(t.Elem(), definitions)}
	case t.Kind() == reflect.Struct:
		if definitions[t.Name()] == nil {
			definitions[t.Name()] = mappingSchema(t, definitions)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	}
	return map[string]any{"type": "string", "minLength": 1}
}

// description is the comment, with what the schema has no word for.
func (k *key) description() string {
	text := k.comment
	if k.unit != "" {
		text += " Unit: " + k.unit + "."
	}
	if k.otherwise != "" {
		text += " If it is left out: " + k.otherwise + "."
	}
	return text
}
