package policy

import (
	"errors"
	"strings"
	"testing"
)

// TestSelfTest breaks what the self-test is about: that an evaluation notices what its rules reach for.
func TestSelfTest(t *testing.T) {
	if err := selfTest(); err != nil {
		t.Fatal(err)
	}
	for name, watched := range map[string]MemberSet{
		"a fact that is unknown":        readContent | readKind | readName | readPath,
		"content that the rule refuses": readEverything &^ readContentJSON,
	} {
		p, err := selfTestPolicy()
		if err != nil {
			t.Fatal(err)
		}
		p.queries("")[Request].reads.bits = watched
		err = p.selfTest()
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "OPA 1.") {
			t.Errorf("%s goes unnoticed: %v", name, err)
		}
	}
}

// TestNothingServesAfterAFailedSelfTest: neither at the start nor with a changed policy.
func TestNothingServesAfterAFailedSelfTest(t *testing.T) {
	passing := selfTest
	defer func() { selfTest = passing }()
	broken := errors.New("OPA is another")
	selfTest = func() error { return broken }
	if _, err := Load(t.Context(), Options{Shipped: []byte("package temporal")}); !errors.Is(err, broken) {
		t.Errorf("Load: %v", err)
	}
	if _, err := NewEngine(t.Context(), Options{Shipped: []byte("package temporal")}); !errors.Is(err, broken) {
		t.Errorf("NewEngine: %v", err)
	}
}
