package foreign

import (
	"context"
	"testing"
)

// TestThePayloadNamesItsSource: of several keys of a wrapped format, the one that the payload names unwraps its data key; the first
// one for a payload that names none of them.
func TestThePayloadNamesItsSource(t *testing.T) {
	refuse := func(context.Context, []byte, map[string]string) ([]byte, error) { return nil, context.Canceled }
	var sources []Source
	for _, name := range []string{"a", "b", "c"} {
		sources = append(sources, Source{Name: name, Namespaces: []string{"*"}, Format: TemporalProxy, Unwrap: refuse, KMS: "awskms://" + name})
	}
	n := reader(t, sources...).For("ns")
	for id, want := range map[string]string{"awskms://a": "a", "awskms://b": "b", "awskms://c": "c", "awskms://other": "a", "": "a"} {
		p := made(map[string]string{"encoding": "binary/encrypted", "encryption-key-id": id, "encryption-dek": "AAAA"}, make([]byte, 64))
		s, err := n.Parse(p, new(Run))
		if err != nil || s == nil || s.Key != KeyPrefix+want {
			t.Errorf("a payload under %q: %+v, %v; want the key of %s", id, s, err, want)
		}
	}
}
