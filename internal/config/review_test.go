package config

import (
	"slices"
	"strings"
	"testing"
)

// TestReview has configs that are valid and do not work. want is part of an error, or with a ? in front of a warning.
func TestReview(t *testing.T) {
	const key = "keys: [{name: default, active: local:x}]\n"
	for text, want := range map[string]string{
		key: "",
		key + "upstreams: [{namespaces: ['*'], address: 'a:1'}, {namespaces: [b], address: 'b:1'}]":                                                                                  "upstreams[1].namespaces[0]: b goes to upstreams[0]",
		key + "upstreams: [{address: 'a:1'}, {address: 'b:1'}]":                                                                                                                      "upstreams[1]: is never used: upstreams[0]",
		key + "upstreams: [{address: '{namespace}:1'}, {address: 'b:1'}]":                                                                                                            "",
		key + "upstreams: [{namespaces: [a], address: 'a:1'}, {address: 'b:1'}]":                                                                                                     "",
		key + "upstreams: [{namespaces: [a], address: 'a:1'}]":                                                                                                                       "?listeners[0]: callers reach *, and upstreams serve only some",
		"keys: [{name: 'a-*', active: 'local:{1}'}, {name: a-b, active: local:x}, {name: default, active: local:x}]":                                                                 "keys[1].name: a-b is never used: keys[0] a-*",
		"keys: [{name: 'a-*', namespaces: [n], active: 'local:{1}'}, {name: a-b, active: local:x}]":                                                                                  "",
		"keys: [{name: 'a-*', active: 'local:{1}'}]":                                                                                                                                 "?only some of these namespaces have a default key",
		"keys: [{name: a, namespaces: [a], active: local:x}]\nlisteners: [{address: '127.0.0.1:1', callers: {anonymous: {namespaces: [a, b]}}}]":                                     "namespace b has no default key",
		"keys: [{name: a, active: 'local:{namespace}'}]\nlisteners: [{address: '127.0.0.1:1', callers: {anonymous: {namespaces: ['a/b']}}}]":                                         "namespace a/b has no default key",
		"keys: [{name: a, active: 'local:{namespace}'}]\nnamespaces: [{name: a+b, sealed_as: ab}]\nlisteners: [{address: '127.0.0.1:1', callers: {anonymous: {namespaces: [a+b]}}}]": "",
		key + "upstreams: [{namespaces: ['a-*'], address: 'a:1'}]\nlisteners: [{address: '127.0.0.1:1', callers: {anonymous: {namespaces: [b]}}}]":                                   "no upstream serves namespace b",
	} {
		f := Flags{File: "c.yaml"}
		r := f.Review([]byte(text))
		got, part := r.Errors, want
		if w, warning := strings.CutPrefix(want, "?"); warning {
			got, part = r.Warnings, w
		} else if len(r.Warnings) > 0 {
			t.Errorf("%s\nwarnings: %q", text, r.Warnings)
		}
		if (part == "") != (len(got) == 0) || part != "" && !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, part) }) {
			t.Errorf("%s\ngot %q, want %q", text, got, want)
		}
	}
}

// TestHiddenNames are patterns for certificates, of which the first that matches counts.
func TestHiddenNames(t *testing.T) {
	for _, tt := range []struct {
		first, second string
		hidden        bool
	}{
		{"*", "worker", true}, {"worker-*", "worker-a", true}, {"worker-a", "worker-*", false},
		{"spiffe://*", "spiffe://a", true}, {"*://*", "worker", false},
	} {
		d := &document{file: "c.yaml"}
		reviewNames(d, "$.names", []Certificate{{Name: tt.first}, {Name: tt.second}})
		if hidden := len(d.problems) > 0; hidden != tt.hidden {
			t.Errorf("%s behind %s: hidden %v, want %v", tt.second, tt.first, hidden, tt.hidden)
		}
	}
}
