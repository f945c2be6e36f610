package tasks

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/metadata"
)

// kept returns the bytes of all values that are kept.
func (c *credentials) kept() (values [][]byte) {
	for _, e := range c.entries {
		values = append(values, e.value)
	}
	return values
}

func overwritten(values [][]byte) bool {
	for _, v := range values {
		if len(v) == 0 || !bytes.Equal(v, make([]byte, len(v))) {
			return false
		}
	}
	return len(values) > 0
}

var workerHeaders = metadata.MD{"authorization": {"Bearer SECRET"}, "authorization-extras": {"more"}, "x-jwt": {"a", "b"}, "temporal-namespace": {"clinic"},
	"x-worker": {"of the listener"}, "baggage": {"user=ann"}, "traceparent": {"00-1-2-03"}, "client-name": {"temporal-go"}, "cookie": {"c"}}

// Of a worker's headers those are kept that the server needs to know who asks. They serve until they are cleared.
func TestCredentialsAreAllThatIsKept(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]int{"x-worker": 6, "": 5, "x-other": 5} {
		c := keepCredentials(workerHeaders, header)
		ctx, ok := c.context(context.Background())
		md, _ := metadata.FromOutgoingContext(ctx)
		n := 0
		for name, values := range md {
			if n += len(values); len(values) != len(workerHeaders[name]) || values[0] != workerHeaders[name][0] {
				t.Errorf("%s: %v", name, values)
			}
		}
		if !ok || n != want || len(md["baggage"])+len(md["traceparent"])+len(md["client-name"])+len(md["cookie"]) > 0 {
			t.Errorf("with the listener's header %q: %v", header, md)
		}
	}
}

func TestCredentialsAreClearedAfterUse(t *testing.T) {
	t.Parallel()
	paused := func(activity string) *pausedActivity {
		return &pausedActivity{key: activityKey{activity: activity}, worker: worker{credentials: keepCredentials(workerHeaders, "")}}
	}
	a := &pausedActivities{waiting: map[activityKey]*pausedActivity{}, retrying: true}
	first, again, other := paused("1"), paused("1"), paused("2")
	values := map[string][][]byte{"first": first.worker.credentials.kept(), "again": again.worker.credentials.kept(), "other": other.worker.credentials.kept()}
	check := func(when string, want ...string) {
		t.Helper()
		for name, v := range values {
			cleared := false
			for _, w := range want {
				cleared = cleared || w == name
			}
			if overwritten(v) != cleared {
				t.Errorf("%s: of %s cleared %v", when, name, !cleared)
			}
		}
	}
	a.add(first, nil)
	a.add(other, nil)
	check("while they wait")
	a.add(again, nil)
	check("paused again", "first")
	a.remove(first)
	check("the one before removed", "first")
	a.remove(again)
	check("removed", "first", "again")
	if ctx, ok := again.worker.credentials.context(context.Background()); ok {
		t.Errorf("cleared credentials serve: %v", ctx)
	}
	if again.worker.credentials.size() != 0 || again.worker.credentials.clone().size() != 0 {
		t.Error("cleared credentials take memory")
	}
	a.clear()
	check("at the end", "first", "again", "other")

	g := guard(t, nil, opensAll, keyFile(t), new(atomic.Bool))
	g.Close()
	late := paused("3")
	kept := late.worker.credentials.kept()
	if g.watch(late) || !overwritten(kept) {
		t.Error("what is not looked after keeps its credentials")
	}
}
