package policy

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// FuzzDecodeJSON compares the decoder with encoding/json's. Where it gives a value, that
// value must be the same, or rules would see another document than the reader.
func FuzzDecodeJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5e-3,"x\u00e9\n",true,false,null,{}],"b":""}`, `"\ud83d"`, `[[[]]]`, ` 0 `, `{"a":1,"a":2}`,
		`{"":{"":[{"":0}]}}`, `-0`, `1E+2`, `"\\\"/"`, "\"\u2028\"", `[1e400]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeJSON(data, nil)
		if err != nil {
			return
		}
		var plain any
		if err := util.UnmarshalJSON(data, &plain); err != nil {
			t.Fatalf("decoded what is no JSON: %v", err)
		}
		want, err := ast.InterfaceToValue(plain)
		if err != nil {
			t.Fatal(err)
		}
		if got.Compare(want) != 0 {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
