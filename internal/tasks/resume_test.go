package tasks

import (
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A fault in what is tried in the background ends the try, not the process.
func TestFaultInATryEndsTheTryAlone(t *testing.T) {
	g := guard(t, nil, opensAll, keyFile(t), new(atomic.Bool))
	if err := g.tryOpen(&pausedActivity{}); status.Code(err) != codes.Internal { // no method: a nil pointer
		t.Errorf("%v", err)
	}
}
