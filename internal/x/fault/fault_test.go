package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/x/fault"
)

func TestDescribe(t *testing.T) {
	const secret = "CANARY"
	for want, f := range map[string]func(){
		"string":              func() { panic(secret) },
		"*errors.errorString": func() { panic(errors.New(secret)) },
		"index out of range":  func() { _ = []int{}[len(secret)] },
		"nil pointer":         func() { panic(fmt.Errorf("%s: %w", secret, nilDereference())) },
	} {
		var got string
		func() {
			defer func() { got = fault.Describe(recover()) }()
			f()
		}()
		if !strings.Contains(got, want) || strings.Contains(got, secret) {
			t.Errorf("got %q, want %s without the secret", got, want)
		}
	}
}

// nilDereference returns the runtime's own error.
func nilDereference() (err error) {
	defer func() { err = recover().(error) }()
	var p *int
	*p = 1
	return nil
}
