package crypto

import (
	"context"
	"sync"
	"time"
)

const (
	newestLife = 10 * time.Second       // how long it is not looked at again
	newestTime = 500 * time.Millisecond // for looking, which leaves most of a call's time to unwrapping
)

// Newest is what a provider knows of the newest version of its key, where each version unwraps what it wrapped. The newest one stands for
// the key: while it is disabled, nothing opens, whichever version wrapped it. Otherwise the key would be revoked and in use in turns, by the
// version that was asked. The zero value is ready.
type Newest struct {
	mu   sync.Mutex
	seen time.Time // last, and was not disabled, or could not be looked at
}

// Disabled returns the error of look if that says, by disabled, that the newest version is disabled. Other errors of looking say
// nothing. It does not look each time.
func (n *Newest) Disabled(ctx context.Context, look func(context.Context) error, disabled func(error) bool) error {
	n.mu.Lock()
	seen := n.seen
	n.mu.Unlock()
	if time.Since(seen) < newestLife {
		return nil
	}
	looking, cancel := context.WithTimeout(ctx, newestTime)
	defer cancel()
	if err := look(looking); err != nil && disabled(err) {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = time.Now()
	return nil
}
