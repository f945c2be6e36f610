package tasks

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A fault in what is tried in the background ends the try, not the process.
func TestFaultInATryEndsTheTryAlone(t *testing.T) {
	g := guard(t, nil, opensAll, keyFile(t), new(atomic.Bool))
	if err := g.tryOpen(&pausedActivity{}); status.Code(err) != codes.Internal { // no method: a nil pointer
		t.Errorf("%v", err)
	}
}

// What is tried in the background takes memory like a call, and is tried again where others use it.
func TestTriesInTheBackgroundAreCounted(t *testing.T) {
	file := keyFile(t)
	g := guard(t, nil, opensAll, file, new(atomic.Bool))
	input := manySealed(t, file)
	sealed, err := proto.Marshal(&workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("token"), Input: input})
	if err != nil {
		t.Fatal(err)
	}
	request, err := proto.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: "clinic"})
	if err != nil {
		t.Fatal(err)
	}
	p := &pausedActivity{request: request, method: g.rewriter.Method(service + "PollActivityTaskQueue"), sealed: sealed}
	if err := g.tryOpen(p); err != nil {
		t.Fatal(err)
	}
	g.memory = &scarce{refusals: 1}
	if err := g.tryOpen(p); !beyondMemory(err) || !transient(err) {
		t.Errorf("%v", err)
	}
}

// What is kept of paused activities is bounded, whatever callers put into their requests, headers and ids.
func TestPausedActivitiesAreBounded(t *testing.T) {
	long := strings.Repeat("n", 10_000)
	for name, p := range map[string]pausedActivity{
		"answers":     {sealed: make([]byte, 100_000)},
		"requests":    {request: make([]byte, 100_000)},
		"credentials": {worker: worker{credentials: keepCredentials(metadata.MD{"authorization": {strings.Repeat("x", 60_000)}}, "")}},
		"ids":         {key: activityKey{namespace: long, workflow: long, run: long}},
	} {
		a := &pausedActivities{waiting: map[activityKey]*pausedActivity{}, retrying: true}
		for i := range 2000 {
			one := p
			one.worker.credentials = cmp.Or(one.worker.credentials, new(credentials)).clone()
			one.sealed, one.request = bytes.Clone(p.sealed), bytes.Clone(p.request)
			one.key.activity = fmt.Sprint(i % 1900) // some come again
			a.add(&one, nil)
		}
		kept := 0
		for _, p := range a.waiting {
			kept += p.bytes()
		}
		if kept > maxPausedBytes || kept != a.bytes || len(a.waiting) < 500 {
			t.Errorf("%s: %d activities take %d bytes, and %d are counted", name, len(a.waiting), kept, a.bytes)
		}
		for _, p := range a.waiting {
			a.remove(p)
		}
		if a.bytes != 0 {
			t.Errorf("%s: %d bytes are left", name, a.bytes)
		}
	}
}

// Namespaces and workers are remembered in a bounded number of bytes, the latest ones.
func TestWhatTasksRememberIsBounded(t *testing.T) {
	g := guard(t, nil, opensAll, keyFile(t), new(atomic.Bool))
	for i := range maxNamespaces + 1000 {
		name := fmt.Sprint(i)
		if !g.searches.begin(name, time.Now()) {
			t.Fatal("not searched: ", name)
		}
		g.searches.end(name, searchEvery)
	}
	if n := g.searches.next.Len(); n != maxNamespaces || g.searches.begin(fmt.Sprint(maxNamespaces), time.Now()) {
		t.Errorf("%d namespaces are remembered, and the last ones are not", n)
	}
	g.polls.release(&workflowservice.ShutdownWorkerRequest{Namespace: "clinic", WorkerInstanceKey: strings.Repeat("w", 1<<20)})
	if keys := g.polls.gone.Keys(); len(keys) != 1 || len(keys[0]) > 64 {
		t.Errorf("%d workers are remembered", len(keys))
	}
}
