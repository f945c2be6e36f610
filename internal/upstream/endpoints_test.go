package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// endpointLister is an upstream with Nexus endpoints, a few on each page.
type endpointLister struct {
	operatorservice.UnimplementedOperatorServiceServer

	mu      sync.Mutex
	targets [][2]string // names and namespaces; without one: a URL
	failing bool
	asked   int    // for a first page
	only    string // the credentials with which it answers; "": any
}

func (l *endpointLister) ListNexusEndpoints(
	ctx context.Context, q *operatorservice.ListNexusEndpointsRequest,
) (*operatorservice.ListNexusEndpointsResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := 0
	if _, err := fmt.Sscan(string(q.NextPageToken), &from); err != nil {
		l.asked++
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if l.failing || l.only != "" && strings.Join(md["authorization"], "") != l.only {
		return nil, status.Error(codes.PermissionDenied, "not yours")
	}
	a := new(operatorservice.ListNexusEndpointsResponse)
	for _, t := range l.targets[from:min(from+2, len(l.targets))] {
		target := new(nexuspb.EndpointTarget)
		if t[1] == "" {
			target.Variant = &nexuspb.EndpointTarget_External_{External: &nexuspb.EndpointTarget_External{Url: "https://example.com/"}}
		} else {
			target.Variant = &nexuspb.EndpointTarget_Worker_{Worker: &nexuspb.EndpointTarget_Worker{Namespace: t[1], TaskQueue: "q"}}
		}
		a.Endpoints = append(a.Endpoints, &nexuspb.Endpoint{Spec: &nexuspb.EndpointSpec{Name: t[0], Target: target}})
	}
	if from += 2; from < len(l.targets) {
		a.NextPageToken = []byte(fmt.Sprint(from))
	}
	return a, nil
}

func (l *endpointLister) set(targets [][2]string, failing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets, l.failing = targets, failing
}

func (l *endpointLister) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// endpointRig is Endpoints with an upstream, whose lists can be made older.
type endpointRig struct {
	*Endpoints
	lister *endpointLister
	pool   *Pool
	log    *strings.Builder
}

func newEndpointRig(t *testing.T, configured map[string]string, targets ...[2]string) *endpointRig {
	t.Helper()
	r := &endpointRig{lister: &endpointLister{targets: targets}, log: new(strings.Builder)}
	f := &frontend{operator: r.lister}
	startFrontend(t, f)
	r.pool = poolTo(t, f)
	var err error
	if r.Endpoints, err = NewEndpoints(configured, slog.New(slog.NewTextHandler(r.log, nil))); err != nil {
		t.Fatal(err)
	}
	return r
}

// want checks to which namespace an endpoint leads; "" is an unknown one.
func (r *endpointRig) want(t *testing.T, endpoint, namespace string) {
	t.Helper()
	r.wantAs(t, "", endpoint, namespace)
}

func (r *endpointRig) wantAs(t *testing.T, token, endpoint, namespace string) {
	t.Helper()
	out := metadata.AppendToOutgoingContext(testContext(t), "authorization", token)
	got, known := r.Namespace(testContext(t), out, r.pool, endpoint)
	if got != namespace || known != (namespace != "") {
		t.Errorf("endpoint %.20q leads to %q, known %v; want %q", endpoint, got, known, namespace)
	}
}

// age makes what is known of the upstream older.
func (r *endpointRig) age(by time.Duration) {
	if list, ok := r.lists.Get(r.pool); ok {
		list.read = list.read.Add(-by)
		r.lists.Add(r.pool, list)
	}
	for _, question := range r.refused.Keys() {
		until, _ := r.refused.Get(question)
		r.refused.Add(question, until.Add(-by))
	}
}

// TestEndpoints: the upstream's list counts before the config, and is read once in a while.
func TestEndpoints(t *testing.T) {
	r := newEndpointRig(t, map[string]string{"orders": "wrong", "web": "gateway", "elsewhere": "other"},
		[2]string{"orders", "sales"}, [2]string{"web", ""}, [2]string{"bills", "billing"}, [2]string{"site", ""}, [2]string{"last", "end"})
	for range 3 {
		r.want(t, "orders", "sales")
		r.want(t, "bills", "billing")
		r.want(t, "last", "end")
		r.want(t, "web", "gateway")
		r.want(t, "elsewhere", "other")
		r.want(t, "ORDERS", "")
		r.want(t, "site", "")
		r.want(t, "", "")
		r.want(t, strings.Repeat("e", maxEndpointName+1), "")
	}
	if n := r.lister.count(); n != 1 {
		t.Errorf("the list was read %d times at once", n)
	}
	if n := strings.Count(r.log.String(), "endpoint=ORDERS"); n != 1 || strings.Contains(r.log.String(), "endpoint=orders") {
		t.Errorf("%d lines about the unknown endpoint:\n%s", n, r.log)
	}
}

// TestEndpointsChange: a new endpoint is found soon, one that leads elsewhere a little later.
func TestEndpointsChange(t *testing.T) {
	r := newEndpointRig(t, nil, [2]string{"orders", "sales"})
	r.want(t, "orders", "sales")
	r.lister.set([][2]string{{"orders", "archive"}, {"new", "sales"}}, false)
	r.want(t, "new", "")
	r.age(endpointsAgain)
	r.want(t, "new", "sales")
	r.lister.set([][2]string{{"orders", "sales"}}, false)
	r.want(t, "orders", "archive")
	r.age(endpointsFresh)
	r.want(t, "orders", "sales")
	r.age(endpointsFresh)
	r.want(t, "new", "")
}

// TestEndpointsThatCannotBeListed: the list before serves for a while, then none is known.
func TestEndpointsThatCannotBeListed(t *testing.T) {
	r := newEndpointRig(t, map[string]string{"bills": "billing"}, [2]string{"orders", "sales"})
	r.lister.set(r.lister.targets, true)
	r.want(t, "orders", "")
	r.want(t, "bills", "billing")
	if n := r.lister.count(); n != 1 {
		t.Errorf("the list was asked for %d times at once", n)
	}
	if !strings.Contains(r.log.String(), "not yours") {
		t.Errorf("the log does not say why:\n%s", r.log)
	}
	r.lister.set(r.lister.targets, false)
	r.age(endpointsAgain)
	r.want(t, "orders", "sales")
	r.lister.set(r.lister.targets, true)
	r.age(endpointsFresh)
	r.want(t, "orders", "sales")
	r.age(endpointsLast)
	r.want(t, "orders", "")
	// A caller that gives up waiting learns nothing.
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	r.age(endpointsLast)
	if _, known := r.Namespace(ctx, testContext(t), r.pool, "orders"); known {
		t.Error("an endpoint is known that nobody has listed")
	}
}

// TestEndpointsOfACaller: a caller who may not list endpoints keeps nobody else from it.
func TestEndpointsOfACaller(t *testing.T) {
	r := newEndpointRig(t, nil, [2]string{"orders", "sales"})
	r.lister.only = "Bearer admin"
	r.wantAs(t, "Bearer worker", "orders", "")
	r.wantAs(t, "Bearer admin", "orders", "sales")
	r.wantAs(t, "Bearer worker", "orders", "sales") // it is the same list for all
}

// TestEndpointsAreBounded: a list takes a bounded part of the memory; what is beyond is unknown.
func TestEndpointsAreBounded(t *testing.T) {
	var many [][2]string
	long := strings.Repeat("n", 1000)
	for i := range maxEndpointBytes/1000 + 100 {
		many = append(many, [2]string{fmt.Sprint("e", i), long})
	}
	r := newEndpointRig(t, nil, many...)
	r.want(t, "e0", long)
	r.want(t, many[len(many)-1][0], "")
}
