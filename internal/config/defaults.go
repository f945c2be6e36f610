package config

import "reflect"

// fillIn fills each key that is left out from its `default` tag, in mappings and lists that are there. The
// values of a default are filled in as well: an entry of a list has defaults of its own.
func fillIn(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fillIn(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			fillIn(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Field(i)
			text, given := v.Type().Field(i).Tag.Lookup("default")
			if given && (field.IsZero() || field.Kind() == reflect.Slice && field.Len() == 0) {
				decode("default", []byte(text), field)
			}
			fillIn(field)
		}
	}
}
