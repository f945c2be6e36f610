package peers

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// TestLock requires the second to wait until the first is done, and to give up when its context ends.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tool.lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("nobody else has it") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, path, func() {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the first has it: %v", err)
	}
	waited := make(chan struct{})
	got := make(chan error)
	go func() {
		second, err := lock(t.Context(), path, func() { close(waited) })
		if err == nil {
			second()
		}
		got <- err
	}()
	<-waited
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}
