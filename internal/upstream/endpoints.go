package upstream

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel/trace"
	nexuspb "go.temporal.io/api/nexus/v1"
	"go.temporal.io/api/operatorservice/v1"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/metadata"

	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

const (
	// endpointsTimeout bounds the reading of a list.
	endpointsTimeout = 2 * time.Second
	// endpointsFresh is how long a list serves without being read again, and so how long an endpoint that leads elsewhere now
	// is known by its old namespace.
	endpointsFresh = 30 * time.Second
	// endpointsAgain is how soon a list is read again for an endpoint that it lacks, or after it could not be read.
	endpointsAgain = time.Second
	// endpointsLast is how long a list serves that cannot be read again.
	endpointsLast = 5 * time.Minute
	// A list holds so many endpoints and bytes of names at most; further endpoints are unknown.
	maxEndpoints     = 10_000
	maxEndpointBytes = 1 << 20
	// maxEndpointLists is of how many upstreams the lists are kept.
	maxEndpointLists = 64
	// maxEndpointName is how long a name may be. Temporal's own limit is 200 by default.
	maxEndpointName = 1000
)

// Endpoints find the namespaces to which Nexus endpoints lead. A caller's request names the endpoint alone, so the upstream
// is asked for its list. For endpoints that the list does not have, or that lead to a URL, the config may name a namespace.
type Endpoints struct {
	configured map[string]string
	log        *slog.Logger
	lines      lograte.Limiter // by endpoint
	seed       maphash.Seed
	asking     singleflight.Group
	refused    *lru.Cache[string, time.Time] // questions that had no answer: when not to ask before
	lists      *lru.Cache[*Pool, endpointList]
}

// endpointList is what an upstream said when it was asked.
type endpointList struct {
	targets map[string]string // namespaces by names of endpoints
	read    time.Time
}

// NewEndpoints returns Endpoints. configured has the namespaces of endpoints whose upstream does not list them.
func NewEndpoints(configured map[string]string, log *slog.Logger) (*Endpoints, error) {
	lists, err := lru.New[*Pool, endpointList](maxEndpointLists)
	if err != nil {
		return nil, err
	}
	refused, err := lru.New[string, time.Time](maxUnconfirmed)
	return &Endpoints{configured: configured, log: log, seed: maphash.MakeSeed(), refused: refused, lists: lists}, err
}

// Namespace returns the namespace to which an endpoint leads, and reports whether it is known. The upstream is asked as the
// caller whose metadata out carries, unless it has listed the endpoint lately.
func (e *Endpoints) Namespace(ctx, out context.Context, upstream *Pool, endpoint string) (namespace string, known bool) {
	if endpoint == "" || len(endpoint) > maxEndpointName {
		return "", false
	}
	list, _ := e.lists.Get(upstream)
	age := time.Since(list.read)
	if namespace, known = list.targets[endpoint]; known && age < endpointsFresh {
		return namespace, true
	}
	var err error
	if age >= endpointsAgain {
		list, err = e.refresh(ctx, out, upstream, list)
	}
	if namespace, known = list.targets[endpoint]; !known {
		namespace, known = e.configured[endpoint]
	}
	if !known && e.lines.Allow(endpoint) {
		fields := []any{"endpoint", endpoint}
		if err != nil {
			fields = append(fields, "error", err)
		}
		e.log.Warn("it is not known to which namespace a Nexus endpoint leads, so its inputs do not pass in clear, and callers with "+
			"`namespaces` may not call it; name its namespace in `nexus_endpoints` of the config, or let the callers list Nexus endpoints",
			fields...)
	}
	return namespace, known
}

// refresh reads the list of an upstream. Calls that come with the same credentials wait for one answer. If there is none, the
// list is the one before, unless that is too old; err says why.
func (e *Endpoints) refresh(ctx, out context.Context, upstream *Pool, before endpointList) (list endpointList, err error) {
	if time.Since(before.read) >= endpointsLast {
		before = endpointList{}
	}
	md, _ := metadata.FromOutgoingContext(out)
	credentials := maphash.String(e.seed, strings.Join(md["authorization"], "\x00"))
	question := fmt.Sprintf("%p %x", upstream, credentials)
	if until, ok := e.refused.Get(question); ok && time.Now().Before(until) {
		return before, nil
	}
	answered := e.asking.DoChan(question, func() (any, error) {
		// The question outlives the call where others wait for it, and has no part in the call's trace.
		out, cancel := context.WithTimeout(trace.ContextWithSpanContext(context.WithoutCancel(out), trace.SpanContext{}), endpointsTimeout)
		defer cancel()
		targets, err := listEndpoints(out, upstream)
		if err != nil {
			e.refused.Add(question, time.Now().Add(endpointsAgain))
			return nil, err
		}
		list := endpointList{targets, time.Now()}
		e.lists.Add(upstream, list)
		return list, nil
	})
	select {
	case a := <-answered:
		if a.Err != nil {
			return before, a.Err
		}
		return a.Val.(endpointList), nil
	case <-ctx.Done():
		return before, ctx.Err()
	}
}

// listEndpoints reads the endpoints of an upstream that lead to namespaces.
func listEndpoints(out context.Context, upstream *Pool) (map[string]string, error) {
	client := operatorservice.NewOperatorServiceClient(upstream)
	targets, room := map[string]string{}, maxEndpointBytes
	var page []byte
	for range maxEndpoints {
		answer, err := client.ListNexusEndpoints(out, &operatorservice.ListNexusEndpointsRequest{NextPageToken: page})
		if err != nil {
			return nil, err
		}
		for _, endpoint := range answer.GetEndpoints() {
			name, target := endpoint.GetSpec().GetName(), endpoint.GetSpec().GetTarget()
			worker, ok := target.GetVariant().(*nexuspb.EndpointTarget_Worker_)
			if !ok || worker.Worker.GetNamespace() == "" {
				continue // a URL
			}
			room -= len(name) + len(worker.Worker.GetNamespace())
			if room < 0 || len(targets) == maxEndpoints {
				return targets, nil
			}
			targets[name] = worker.Worker.GetNamespace()
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	return targets, nil
}
