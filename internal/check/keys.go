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
	where string            // file:line and path
	for_  string            // the key's name and namespace, where the config has a placeholder
	seals bool              // active; else for opening only
	bound crypto.KeyContext // of the data key that is made; without a name none is
	arn   string
	err   error
}

// checkKeys asks every key encryption key for an answer, each within a time of its own, so that one that does not answer
// is the only one that is blamed.
func (r *run) checkKeys(ctx context.Context) (string, bool) {
	names := strings.Join(r.result.Keys, ", ")
	switch {
	case r.options.Offline:
		return "not called", false
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
			keys[i].arn, keys[i].err = r.ask(ctx, &keys[i])
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
	uses := r.uses()
	add := func(entry int, uris []string, for_ string, bound crypto.KeyContext) {
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
			list = append(list, asked{uri: uri, where: r.review.Place(path), for_: for_, seals: j == 0, bound: bound})
		}
	}
	for i, k := range r.config.Keys {
		add(i, append([]string{k.Active}, k.OpenOnly...), "", r.boundBy(i, uses))
	}
	for _, use := range uses {
		if entry, uris, ok := r.set.URIs(use.namespace, use.key); ok {
			add(entry, uris, fmt.Sprintf("key %s of namespace %s: ", use.key, use.namespace), r.set.KeyContext(use.namespace, use.key))
		}
	}
	r.result.MissingKeys = slices.Sorted(maps.Keys(missing))
	return list
}

// boundBy returns what a data key of an entry is bound to: a namespace that needs the key, since a permission may be for those
// alone, or any if none is known by name. It is empty for an entry whose key has no name of its own.
func (r *run) boundBy(entry int, uses []use) crypto.KeyContext {
	name := r.config.Keys[entry].Name
	if r.set == nil || name == "" || strings.Contains(name, "*") {
		return crypto.KeyContext{}
	}
	for _, use := range uses {
		if i, _, ok := r.set.URIs(use.namespace, use.key); ok && i == entry && use.key == name {
			return r.set.KeyContext(use.namespace, name)
		}
	}
	return r.set.KeyContext("default", name)
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

// ask opens a key, which asks its service for it, and returns its ARN if it has one. With Options.Connect, a key that seals makes
// a data key and opens it, which shows that the permissions are there.
func (r *run) ask(ctx context.Context, k *asked) (arn string, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	type answer struct {
		arn string
		err error
	}
	answered := make(chan answer, 1)
	go func() { // a service's client may overlook the end of its time
		p, err := keyservice.Open(ctx, k.uri)
		if c, ok := p.(crypto.WrapChecker); ok && k.seals {
			err = c.CheckWrap(ctx)
		}
		if err == nil && r.options.Connect && k.seals && k.bound.Key != "" {
			err = makesDataKey(ctx, p, k.bound)
		}
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
		return "", crypto.Internalf(crypto.KindUnavailable, "open key", "%s did not answer within %s", k.uri, r.options.Timeout)
	}
}

// makesDataKey makes a data key, opens it, and forgets it.
func makesDataKey(ctx context.Context, p crypto.Provider, bound crypto.KeyContext) error {
	plain, wrapped, err := p.GenerateDataKey(ctx, bound)
	clear(plain)
	if err != nil {
		return fmt.Errorf("it makes no data key: %w", err)
	}
	opened, err := p.UnwrapDataKey(ctx, wrapped, bound)
	clear(opened)
	if err != nil {
		return fmt.Errorf("it does not open the data key that it has made: %w", err)
	}
	return nil
}
