package app

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMissingDependenciesAreShown: one series for each, also where entries of the config share an address.
func TestMissingDependenciesAreShown(t *testing.T) {
	d := &dependencies{log: slog.New(slog.DiscardHandler), missing: map[int]error{},
		all: []dependency{{what: "upstream", name: "a"}, {what: "upstream", name: "a"}, {what: "upstream", name: "b"}, {what: "key set", name: "u"}}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(d)
	if got := gathered(t, registry)["temporal_seal_dependency_missing"]; got != 0 {
		t.Errorf("%v are missing at first", got)
	}
	d.note(1, errors.New("refused"))
	d.note(3, errors.New("refused"))
	if got := gathered(t, registry)["temporal_seal_dependency_missing"]; got != 2 {
		t.Errorf("%v are missing, want 2", got)
	}
	d.note(1, nil)
	d.note(3, nil)
	if got := gathered(t, registry)["temporal_seal_dependency_missing"]; got != 0 {
		t.Errorf("%v are missing at the end", got)
	}
}
