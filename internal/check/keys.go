package check

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

var quiet = slog.New(slog.DiscardHandler)

// mostAsked is how many keys are asked at once.
const mostAsked = 8

// asked is one key encryption key and what it answers.
type asked struct {
	uri   string
	where string // file:line and path
	for_  string // the key's name and namespace, where the config has a placeholder
	seals bool   // active; else for opening only
	arn   string
	err   error
}

// checkKeys asks every key encryption key for an answer, each within a time of its own, so that one that does not answer
// is the only one that is blamed.
func (r *run) checkKeys(ctx context.Context) (string, bool) {
	names := strings.Join(r.result.Keys, ", ")
	switch {
	case r.options.Offline:
		return "not asked", false
	case len(r.result.Keys) == 0:
		return "the config has errors", false
	}
	keys := r.keysToAsk()
	places := make(chan struct{}, mostAsked)
	var all sync.WaitGroup
	for i := range keys {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			keys[i].arn, keys[i].err = r.ask(ctx, keys[i].uri)
		})
	}
	all.Wait()
	for _, k := range keys {
		switch {
		case k.err == nil && !strings.Contains(k.uri, k.arn): // also "", of a key service without ARNs
			r.note("%s: %s%s is %s", k.where, k.for_, k.uri, k.arn)
		case k.err == nil:
		case k.seals:
			r.fail("%s: %s%v", k.where, k.for_, k.err)
		default:
			r.warn("%s: %s%v; what this key sealed cannot be opened", k.where, k.for_, k.err)
		}
	}
	for _, path := range r.result.MissingKeys {
		r.note("%s: the key file does not exist yet; serve makes it at its first start", path)
	}
	return names, true
}

// keysToAsk lists the key encryption keys: those of the config, and where their URIs have a placeholder, those that the
// namespaces need which the config and the policies name.
func (r *run) keysToAsk() []asked {
	var list []asked
	missing, seen := map[string]bool{}, map[string]bool{}
	add := func(entry int, uris []string, for_ string) {
		for j, uri := range uris {
			if strings.ContainsAny(uri, "{}") || seen[uri] || !keyservice.Known(uri) {
				continue // a pattern, or an error of the config
			}
			seen[uri] = true
			if path, made := app.WouldMake(r.config, uri); made {
				missing[path] = true
				continue
			}
			path := fmt.Sprintf("$.keys[%d].active", entry)
			if j > 0 {
				path = fmt.Sprintf("$.keys[%d].open_only[%d]", entry, j-1)
			}
			list = append(list, asked{uri: uri, where: r.review.Place(path), for_: for_, seals: j == 0})
		}
	}
	for i, k := range r.config.Keys {
		add(i, append([]string{k.Active}, k.OpenOnly...), "")
	}
	for _, use := range r.uses() {
		if entry, uris, ok := r.set.URIs(use.namespace, use.key); ok {
			add(entry, uris, fmt.Sprintf("key %s of namespace %s: ", use.key, use.namespace))
		}
	}
	r.result.MissingKeys = slices.Sorted(maps.Keys(missing))
	return list
}

// use is a key that a namespace needs.
type use struct{ namespace, key string }

// uses lists the default key of each namespace that is known by name, and the keys that rules spell out for it.
func (r *run) uses() (all []use) {
	if r.set == nil || !r.review.Decoded {
		return nil
	}
	namespaces := r.config.NamedNamespaces()
	for _, k := range r.result.Policy.Keys {
		if k.Namespace != "" {
			namespaces = append(namespaces, k.Namespace)
		}
	}
	slices.Sort(namespaces)
	for _, namespace := range slices.Compact(namespaces) {
		if key, ok := r.set.DefaultKey(namespace); ok {
			all = append(all, use{namespace, key})
		}
		for _, k := range r.result.Policy.Keys {
			if k.Namespace == namespace || k.Namespace == "" {
				all = append(all, use{namespace, k.Key})
			}
		}
	}
	return all
}

// ask opens a key, which asks its service for it, and returns its ARN if it has one.
func (r *run) ask(ctx context.Context, uri string) (arn string, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	type answer struct {
		arn string
		err error
	}
	answered := make(chan answer, 1)
	go func() { // a service's client may overlook the end of its time
		p, err := keyservice.Open(ctx, uri)
		if err != nil {
			answered <- answer{err: err}
			return
		}
		answered <- answer{arn: crypto.ARNOf(p)}
	}()
	select {
	case a := <-answered:
		return a.arn, a.err
	case <-ctx.Done():
		return "", crypto.Internalf(crypto.KindUnavailable, "open key", "%s did not answer within %s", uri, r.options.Timeout)
	}
}
