package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// Bundle is a policy that is fetched as an OPA bundle over HTTP. It holds the whole
// policy: the platform's package and every namespace's, a file each.
type Bundle struct {
	URL       string // of the bundle itself
	TokenFile string // holds a bearer token; re-read for each request; "" for none

	// PublicKey is the PEM of the key that signs the bundle, or the secret of an HS
	// algorithm; "" takes unsigned bundles.
	PublicKey string
	Algorithm string // of the signature; "" means RS256
	Scope     string // that the signature must name; "" for any

	Folder string        // where the last good bundle is kept for a start without the server; "" for nowhere
	Poll   time.Duration // 0 means a minute; each request carries the ETag of the bundle in force
	Wait   time.Duration // for the first bundle; 0 means 15 s
}

const (
	bundleName    = "temporal"
	bundleKey     = "policy"
	bundlePoll    = time.Minute
	bundleWait    = 15 * time.Second
	bundleMaxSize = 64 << 20
)

// bundles follows a bundle by OPA's own plugin, which fetches, verifies and persists it. Its store checks
// every commit: a bundle that does not load as a policy is not activated, and so neither persisted nor taken
// for the newest.
type bundles struct {
	source  Bundle
	manager *plugins.Manager
	report  func(error)
	first   chan struct{} // closed when a bundle is in force

	mu      sync.Mutex
	failure error // why the newest bundle is not in force, if so
}

// startBundles begins to follow a bundle. take receives each new one and refuses it by returning an error.
// report receives every other failure when it begins, and nil when there is none any more. Both may be
// called until stop returns.
func startBundles(
	ctx context.Context, b Bundle, take func(context.Context, Sources) error, report func(error),
) (*bundles, error) {
	b.Wait = cmp.Or(b.Wait, bundleWait)
	raw, err := b.config()
	if err != nil {
		return nil, badSource("", "%w", err)
	}
	s := &bundles{source: b, report: report, first: make(chan struct{})}
	started := sync.OnceFunc(func() { close(s.first) })
	store := &checkedStore{Store: inmem.New(), check: func(ctx context.Context, files Sources) error {
		err := take(ctx, files)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failure = err; err == nil {
			started()
		}
		return err
	}}
	s.manager, err = plugins.New(raw, "temporal-seal", store,
		plugins.Logger(logging.NewNoOpLogger()), plugins.ConsoleLogger(logging.NewNoOpLogger()),
		plugins.WithParserOptions(ast.ParserOptions{RegoVersion: ast.RegoV1}), plugins.WithEnableVersionCheck(false))
	if err != nil {
		return nil, badSource("", "policy.bundle: %w", err)
	}
	parsed, err := bundle.NewConfigBuilder().WithBytes(s.manager.GetConfig().Bundles).WithServices(s.manager.Services()).
		WithKeyConfigs(s.manager.PublicKeys()).Parse()
	if err != nil {
		return nil, badSource("", "policy.bundle: %w", err)
	}
	plugin := bundle.New(parsed, s.manager)
	plugin.Register(bundleName, s.status)
	s.manager.Register(bundle.Name, plugin)
	if err := s.manager.Start(ctx); err != nil {
		return nil, badSource("", "policy.bundle: %w", err)
	}
	return s, nil
}

// fetchOnce returns the sources of a bundle without following it.
func fetchOnce(ctx context.Context, b Bundle) (Sources, error) {
	b.Folder = "" // what was not tried out must not become the last good one
	var files Sources
	s, err := startBundles(ctx, b, func(_ context.Context, f Sources) error { files = f; return nil }, func(error) {})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return files, nil
}

// stop ends the polling.
func (s *bundles) stop() { s.manager.Stop(context.Background()) }

// wait returns nil once a first bundle is in force, or the reason why there is none in time.
func (s *bundles) wait(ctx context.Context) error {
	limit := time.NewTimer(s.source.Wait)
	defer limit.Stop()
	select {
	case <-s.first:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return s.failure
	}
	return badSource("", "no bundle came from %s within %v, and none is kept in policy.bundle.folder",
		s.source.URL, s.source.Wait)
}

// config returns the configuration of OPA's plugin manager, as JSON.
func (b Bundle) config() ([]byte, error) {
	u, err := url.Parse(b.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("policy.bundle.url %q is not an http or https URL", b.URL)
	}
	if u.Scheme == "http" && b.PublicKey == "" && !loopback.Host(u.Hostname()) {
		return nil, fmt.Errorf("policy.bundle.url %q is not encrypted and the bundle is not signed, "+
			"so anybody on the way could write the policy: use https, or set policy.bundle.public_key_file", b.URL)
	}
	service := map[string]any{"url": u.Scheme + "://" + u.Host}
	if b.TokenFile != "" {
		service["credentials"] = map[string]any{"bearer": map[string]any{"token_path": b.TokenFile}}
	}
	seconds := max(1, int64(cmp.Or(b.Poll, bundlePoll).Seconds()))
	source := map[string]any{
		"service":          bundleKey,
		"resource":         u.RequestURI(),
		"persist":          b.Folder != "",
		"size_limit_bytes": bundleMaxSize,
		"polling":          map[string]any{"min_delay_seconds": seconds, "max_delay_seconds": seconds},
	}
	config := map[string]any{
		"services": map[string]any{bundleKey: service},
		"bundles":  map[string]any{bundleName: source},
	}
	if b.PublicKey != "" {
		key := map[string]any{"algorithm": cmp.Or(b.Algorithm, "RS256"), "key": b.PublicKey}
		config["keys"] = map[string]any{bundleKey: key}
		source["signing"] = map[string]any{"keyid": bundleKey, "scope": b.Scope}
	}
	if b.Folder != "" {
		if err := os.MkdirAll(b.Folder, 0o700); err != nil {
			return nil, fmt.Errorf("policy.bundle.folder: %w", err)
		}
		config["persistence_directory"] = b.Folder
	}
	return json.Marshal(config)
}

// status receives the outcome of each poll and reports what has changed since the one before.
func (s *bundles) status(st bundle.Status) {
	var err error
	if st.Code != "" {
		text := st.Message
		for _, err := range st.Errors {
			text += "; " + err.Error()
		}
		err = badSource("", "the bundle from %s: %s", s.source.URL, text)
	}
	s.mu.Lock()
	before := fmt.Sprint(s.failure)
	known := before == fmt.Sprint(err) || before == st.Message // the plugin repeats what take refused
	if !known {
		s.failure = err
	}
	s.mu.Unlock()
	if !known {
		s.report(err)
	}
}

// checkedStore is the plugin's store. A bundle is written in one transaction, whose commit fails if the check
// refuses what the store would then hold.
type checkedStore struct {
	storage.Store
	check func(context.Context, Sources) error
}

// Commit checks before anything is activated.
func (s *checkedStore) Commit(ctx context.Context, txn storage.Transaction) error {
	files, err := s.policies(ctx, txn)
	if err == nil && len(files) > 0 {
		err = s.check(ctx, files)
	}
	if err != nil {
		s.Abort(ctx, txn)
		return err
	}
	return s.Store.Commit(ctx, txn)
}

// policies reads the modules of a transaction and sorts them by owner.
func (s *checkedStore) policies(ctx context.Context, txn storage.Transaction) (Sources, error) {
	names, err := s.ListPolicies(ctx, txn)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var files Sources
	for _, name := range names {
		if strings.HasSuffix(name, testSuffix) {
			continue
		}
		text, err := s.GetPolicy(ctx, txn, name)
		if err != nil {
			return nil, err
		}
		files = append(files, source{name: name, text: text})
	}
	if len(files) == 0 {
		return nil, nil
	}
	return files.byOwner()
}

// byOwner puts the platform's module first and assigns each other module to the namespace in its package
// clause. In a bundle the package decides, not the file's name.
func (s Sources) byOwner() (Sources, error) {
	var errs []error
	owners := map[string]string{} // files by package
	for i := range s {
		m, err := parseModule(s[i].name, s[i].text)
		if err != nil {
			errs = append(errs, sourceError(err))
			continue
		}
		line, path, name := location(m.Package.Location), m.Package.Path, packageName(m)
		if len(path) == len(namespacesPath)+1 && path.HasPrefix(namespacesPath) {
			s[i].namespace = string(path[len(path)-1].Value.(ast.String))
		} else if !path.Equal(platformPath) {
			errs = append(errs, badSource(line,
				"a bundle contains package temporal and packages temporal.namespaces[\"<namespace>\"] alone, and this is %s", name))
			continue
		}
		if other, taken := owners[name]; taken {
			errs = append(errs, badSource(line,
				"package %s is in %s already; each package is one file, so that it has one owner", name, other))
		}
		owners[name] = s[i].name
	}
	if owners["temporal"] == "" && len(errs) == 0 {
		errs = append(errs, badSource("", "the bundle has no package temporal with the platform's rules"))
	}
	slices.SortStableFunc(s, func(a, b source) int { return cmp.Compare(a.namespace, b.namespace) })
	return s, errors.Join(errs...)
}
