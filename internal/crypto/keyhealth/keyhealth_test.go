package keyhealth

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

type silent struct{}

func (silent) Ref() crypto.KEKRef { return crypto.KEKRef{1} }
func (silent) URI() string        { return "test:silent" }
func (silent) GenerateDataKey(context.Context, crypto.KeyContext) (plain, wrapped []byte, err error) {
	panic("not asked")
}
func (silent) UnwrapDataKey(context.Context, []byte, crypto.KeyContext) ([]byte, error) {
	panic("not asked")
}

func TestContextsAreBounded(t *testing.T) {
	k := New(silent{}, &Options{Log: slog.New(slog.DiscardHandler)})
	for i := range 2 * maxContexts {
		k.Answered(crypto.KeyContext{Namespace: fmt.Sprint("ns", i), Key: "default"}, []byte("w"), crypto.KeyID{})
	}
	if len(k.contexts) != maxContexts || len(k.order) != maxContexts {
		t.Errorf("%d contexts, %d in order; want %d", len(k.contexts), len(k.order), maxContexts)
	}
	if !k.Known(crypto.KeyContext{Namespace: fmt.Sprint("ns", 2*maxContexts-1), Key: "default"}) {
		t.Error("the latest context is not there")
	}
}
