package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// question is what is asked somewhere else.
type question struct {
	where string
	ask   func(context.Context) error
	err   error
}

// checkConnections asks every upstream, and every issuer for its keys, each within a time of its own.
func (r *run) checkConnections(ctx context.Context) (string, bool) {
	if len(r.review.Errors) > 0 {
		return "the config has errors", false
	}
	upstreams, err := app.Upstreams(r.config, quiet)
	if err != nil {
		return "the upstreams have errors", false // which were reported with the config
	}
	var list []question
	for i, u := range upstreams {
		for _, one := range r.addresses(u) {
			list = append(list, question{where: r.review.Place(fmt.Sprintf("$.upstreams[%d].address", i)),
				ask: func(ctx context.Context) error { return upstream.Probe(ctx, []upstream.Config{one}) }})
		}
	}
	sets := 0
	for path, l := range listeners(r.config) {
		if l.Callers != nil && l.Callers.JWT != nil && l.Callers.JWT.JWKSURL != "" {
			sets++
			list = append(list, question{where: r.review.Place(path + ".callers.jwt.jwks_url"),
				ask: func(ctx context.Context) error { return auth.FetchKeys(ctx, l.Callers.JWT.JWKSURL) }})
		}
	}
	var all sync.WaitGroup
	for i := range list {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
			defer cancel()
			list[i].err = list[i].ask(ctx)
		})
	}
	all.Wait()
	for _, q := range list {
		if q.err != nil {
			r.fail("%s: %v", q.where, q.err)
		}
	}
	return count(len(list)-sets, "upstream") + ", " + count(sets, "key set") + " of issuers", true
}

// addresses returns an upstream for each address of one: if it is a template, for the namespaces that the config names.
func (r *run) addresses(u upstream.Config) (all []upstream.Config) {
	if !strings.Contains(u.Address, "{namespace}") {
		return []upstream.Config{u}
	}
	for _, namespace := range r.config.NamedNamespaces() {
		if u.Serves(namespace) {
			one := u
			one.Address = strings.ReplaceAll(u.Address, "{namespace}", namespace)
			all = append(all, one)
		}
	}
	return all
}

// listeners yields the listeners for callers with their paths, the codec server too.
func listeners(c *config.Config) func(yield func(string, *config.Listener) bool) {
	all := slices.Clone(c.Listeners)
	return func(yield func(string, *config.Listener) bool) {
		for i := range all {
			if !yield(fmt.Sprintf("$.listeners[%d]", i), &all[i]) {
				return
			}
		}
		if c.CodecServer != nil {
			yield("$.codec_server", c.CodecServer.Listener())
		}
	}
}
