package crypto_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

func TestNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		off := errors.New("off")
		var n crypto.Newest
		var answer error
		looked := 0
		look := func(context.Context) error { looked++; return answer }
		isOff := func(err error) bool { return errors.Is(err, off) }
		step := func(what string, after time.Duration, says, want error, looks int) {
			t.Helper()
			time.Sleep(after)
			answer, looked = says, 0
			if err := n.Disabled(t.Context(), look, isOff); !errors.Is(err, want) || looked != looks {
				t.Errorf("%s: error %v after %d looks, want %v after %d", what, err, looked, want, looks)
			}
		}
		step("disabled from the start", 0, off, off, 1)
		step("looked at each time while it is disabled", 0, off, off, 1)
		step("enabled", 0, nil, nil, 1)
		step("seen a moment ago", 9*time.Second, off, nil, 0)
		step("seen some time ago", time.Second, off, off, 1)
		step("it may not be looked at", 0, errors.New("denied"), nil, 1)
		step("not asked each time", time.Second, off, nil, 0)
		start := time.Now()
		time.Sleep(time.Minute)
		err := n.Disabled(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, isOff)
		if took := time.Since(start) - time.Minute; err != nil || took > time.Second {
			t.Errorf("a service that does not answer: error %v after %v, want none, and time left for the call", err, took)
		}
	})
}
