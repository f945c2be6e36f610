package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// checkLife looks for workflows that run for longer than keys of their namespaces live: once such a workflow has to replay what has
// expired, its tasks fail. Without Options.Connect, a note says what to ask the server.
func (r *run) checkLife(ctx context.Context) {
	for i, k := range r.config.Keys {
		if k.Life == 0 || r.set == nil {
			continue
		}
		where := r.review.Place(fmt.Sprintf("$.keys[%d].life", i))
		if namespaces := defaultKeyOf(r, i); len(namespaces) > 0 {
			r.note("%s: it is that of the default key in %s: task tokens have no MAC there, so after a restart, or with another replica, "+
				"a `pass` that depends on facts of a task becomes `seal`; give the life to a key that rules name", where, strings.Join(namespaces, ", "))
		}
		query := fmt.Sprintf("ExecutionStatus = 'Running' AND StartTime < '%s'", time.Now().Add(-k.Life).UTC().Format(time.RFC3339))
		var namespaces []string
		for _, namespace := range r.config.NamedNamespaces() {
			name := strings.ReplaceAll(k.Name, "*", "x") // as an example
			if entry, ok := r.set.Expiring(r.set.KeyContext(namespace, name)); ok && entry == i {
				namespaces = append(namespaces, namespace)
			}
		}
		if !r.options.Connect || len(namespaces) == 0 {
			r.note("%s: a workflow that runs for longer than %s fails once it replays what has expired; look for those that do, in each namespace "+
				"that seals with this key: temporal workflow count --query \"%s\"", where, days(k.Life), query)
			continue
		}
		for _, namespace := range namespaces {
			switch n, err := r.countWorkflows(ctx, namespace, query); {
			case err != nil:
				r.warn("%s: workflows of namespace %s that run for longer than %s could not be counted: %v", where, namespace, days(k.Life), err)
			case n > 0:
				r.warn("%s: %s in namespace %s for longer than %s, and will fail if they replay what this key has sealed and has expired: "+
					"raise the life, or have them continue as new", where, count(int(n), "workflow")+runs(n), namespace, days(k.Life))
			}
		}
	}
}

// defaultKeyOf returns the namespaces, among those that the config names, whose default key an entry of `keys` serves.
func defaultKeyOf(r *run, entry int) (namespaces []string) {
	for _, namespace := range r.config.NamedNamespaces() {
		name, ok := r.set.DefaultKey(namespace)
		if !ok {
			continue
		}
		if of, ok := r.set.Expiring(r.set.KeyContext(namespace, name)); ok && of == entry {
			namespaces = append(namespaces, namespace)
		}
	}
	return namespaces
}

// runs is the verb of a number of workflows.
func runs(n int64) string {
	if n == 1 {
		return " runs"
	}
	return " run"
}

// days writes a duration in days, if it is some.
func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.String()
}

// countWorkflows asks the upstream of a namespace.
func (r *run) countWorkflows(ctx context.Context, namespace, query string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	upstreams, err := app.Upstreams(r.config, quiet)
	if err != nil {
		return 0, err
	}
	return upstream.CountWorkflows(ctx, upstreams, namespace, query)
}
