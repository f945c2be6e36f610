package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"go.temporal.io/sdk/client"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	namespace     = "soak"
	handlerSpace  = "soak-handlers" // where Nexus operations are answered
	region        = "eu-central-1"
	drainTime     = 25 * time.Second // the default
	drainDelay    = time.Second
	proxySettings = `grants:
  - {from: soak, to: soak-handlers}
  - {from: soak-handlers, to: soak}
drain: {time: 25s, delay: 1s}
`
)

// policies are swapped below the load. Each seals all there is to seal, each in its own way.
var policies = []string{
	`request contains {"action": "seal"}`,
	`request contains {"action": "seal", "key": "side"} if input.payload.kind in {"input", "result", "signal"}`,
	`request contains {"action": "seal", "fields": ["/secret"]} if input.payload.kind in {"input", "result", "memo"}

request contains {"action": "seal", "fields": ["/fill"]} if {
	input.payload.kind in {"input", "result", "memo"}
	input.content.json.fill
}`,
}

// site is all that the load runs on: a Temporal server with its database in a file, a KMS in a process of its own, and
// replicas of the proxy behind a balancer.
type site struct {
	dir, kmsBinary string
	server         *peers.Process
	serverOptions  peers.TemporalOptions
	kms            *peers.Process
	kmsAddress     string
	kmsClient      *kms.Client
	store          *keyStore // nil: all envelopes are self-contained
	replicas       []*replica
	balancer       *balancer
	frontend       string        // address
	direct         client.Client // of it, past the proxy

	mu     sync.Mutex
	keys   []harness.KeyOption
	policy string
	made   int // keys in KMS
}

// plan is what a site consists of.
type plan struct {
	kmsBinary string
	replicas  int    // how many proxies
	old       string // path of an older proxy, which replica A runs; each replica then seals with a KMS key of its own
	store     string // "postgres": payloads are sealed by reference to a key store there
}

// start brings everything up.
func start(ctx context.Context, dir string, p plan) (*site, error) {
	ports, err := peers.FreePorts(2)
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir, kmsBinary: p.kmsBinary, kmsAddress: "127.0.0.1:" + strconv.Itoa(ports[0]), frontend: "127.0.0.1:" + strconv.Itoa(ports[1])}
	if err := os.Mkdir(s.database(), 0o755); err != nil {
		return nil, err
	}
	s.serverOptions = peers.TemporalOptions{DBFile: filepath.Join(s.database(), "temporal.db"), Port: ports[1], Namespaces: []string{namespace, handlerSpace}}
	if err := s.startServer(ctx); err != nil {
		return s, err
	}
	if s.direct, err = dial(ctx, s.frontend, namespace); err != nil {
		return s, err
	}
	if err := s.startKMS(ctx); err != nil {
		return s, err
	}
	s.kmsClient = kms.New(kms.Options{BaseEndpoint: aws.String("http://" + s.kmsAddress), Region: region, RetryMaxAttempts: 10,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")})
	for _, name := range []string{"default", "side"} {
		uri, err := s.newKey(ctx)
		if err != nil {
			return s, err
		}
		s.keys = append(s.keys, harness.KeyOption{Name: name, Active: uri, Reference: p.store != ""})
	}
	if p.store != "" {
		if s.store, err = startKeyStore(ctx); err != nil {
			return s, err
		}
	}
	s.setPolicy(policies[0])
	options := slices.Repeat([]func() harness.ProxyOptions{s.proxyOptions}, p.replicas)
	if p.old != "" {
		if options, err = s.oldAndNew(ctx, p.old); err != nil {
			return s, err
		}
	}
	return s, s.startReplicas(ctx, options)
}

// startReplicas starts a proxy for each of some options, and the balancer before them.
func (s *site) startReplicas(ctx context.Context, options []func() harness.ProxyOptions) (err error) {
	var backends []*backend
	for i := range options {
		name := string(rune('A' + i))
		r, err := newReplica(name, filepath.Join(s.dir, "proxy-"+name), options[i])
		if err != nil {
			return err
		}
		if err := os.Mkdir(r.dir, 0o755); err != nil {
			return err
		}
		s.replicas = append(s.replicas, r)
		if err := r.start(ctx); err != nil {
			return err
		}
		backends = append(backends, r.backend())
	}
	s.balancer, err = newBalancer(backends...)
	return err
}

// stop ends what is left, hard: there is nothing to save.
func (s *site) stop() {
	if s.balancer != nil {
		s.balancer.close()
	}
	for _, r := range s.replicas {
		r.kill()
	}
	if s.direct != nil {
		s.direct.Close()
	}
	for _, p := range []*peers.Process{s.kms, s.server} {
		if p != nil {
			p.Kill()
		}
	}
	if s.store != nil {
		s.store.stop()
	}
}

func (s *site) database() string { return filepath.Join(s.dir, "database") }

func (s *site) proxyOptions() harness.ProxyOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	extra := proxySettings
	if s.store != nil {
		extra += s.store.extra
	}
	return harness.ProxyOptions{Upstream: s.frontend, Keys: slices.Clone(s.keys), Policy: s.policy, Extra: extra,
		Env: []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}}
}

func (s *site) startServer(ctx context.Context) (err error) {
	s.server, err = harness.StartTemporal(ctx, s.serverOptions)
	return err
}

// killServer ends the server as a crash does, and starts it again on its database.
func (s *site) killServer(ctx context.Context, away time.Duration) error {
	s.server.Kill()
	wait(ctx, away)
	return s.startServer(ctx)
}

func (s *site) startKMS(ctx context.Context) (err error) {
	s.kms, err = peers.Start("kmsstub", exec.Command(s.kmsBinary, "-listen", s.kmsAddress, "-region", region, "-keep", filepath.Join(s.dir, "kms.json"), "-alias", "alias/unused"), io.Discard)
	return err
}

func (s *site) killKMS(ctx context.Context, away time.Duration) error {
	s.kms.Kill()
	wait(ctx, away)
	return s.startKMS(ctx)
}

// newKey makes a key in KMS and returns its URI.
func (s *site) newKey(ctx context.Context) (uri string, err error) {
	made, err := s.kmsClient.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		return "", err
	}
	s.made++
	alias := fmt.Sprint("alias/soak-", s.made)
	_, err = s.kmsClient.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: made.KeyMetadata.KeyId})
	return "awskms://" + alias + "?region=" + region + "&endpoint=http://" + s.kmsAddress, err
}

// rotateMaterial is KMS's own rotation, of which callers learn nothing.
func (s *site) rotateMaterial(ctx context.Context) error {
	_, err := s.kmsClient.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: aws.String(fmt.Sprint("alias/soak-", s.made))})
	return err
}

// rotateKey gives the default key another one of KMS, in two steps: each replica has to open with it before one seals.
func (s *site) rotateKey(ctx context.Context) error {
	fresh, err := s.newKey(ctx)
	if err != nil {
		return err
	}
	if err := s.reconfigure(ctx, func(k *harness.KeyOption) { k.OpenOnly = append(slices.Clone(k.OpenOnly), fresh) }); err != nil {
		return err
	}
	return s.reconfigure(ctx, func(k *harness.KeyOption) {
		k.OpenOnly = slices.DeleteFunc(append(slices.Clone(k.OpenOnly), k.Active), func(uri string) bool { return uri == fresh })
		k.Active = fresh
	})
}

// reconfigure changes the default key in every replica's config, and waits until all have taken it up.
func (s *site) reconfigure(ctx context.Context, change func(*harness.KeyOption)) error {
	s.mu.Lock()
	change(&s.keys[0])
	s.mu.Unlock()
	for _, r := range s.replicas {
		if err := s.changed(ctx, r, `temporal_seal_config_reloads_total{outcome="ok"}`, r.reconfigure); err != nil {
			return fmt.Errorf("new keys for replica %s: %w", r.name, err)
		}
	}
	return nil
}

// changed does something to a replica and waits until a counter of its proxy has grown.
func (s *site) changed(ctx context.Context, r *replica, counter string, do func() error) error {
	before, err := r.metric(counter)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; wait(ctx, 100*time.Millisecond) {
		if now, err := r.metric(counter); err == nil && now > before {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("%s did not grow", counter)
		}
	}
}

func (s *site) setPolicy(rules string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy = "package temporal\n\n" + rules + "\n\nresponse contains {\"action\": \"open\"}\n"
}

// swapPolicy puts another policy in force in all replicas.
func (s *site) swapPolicy(ctx context.Context, rules string) error {
	s.setPolicy(rules)
	return s.pushPolicy(ctx, s.proxyOptions().Policy, "ok")
}

// breakPolicy gives the replicas a policy that does not load: the one before stays in force.
func (s *site) breakPolicy(ctx context.Context) error {
	good := s.proxyOptions().Policy
	if err := s.pushPolicy(ctx, strings.Replace(good, "contains", "contain", 1), "error"); err != nil {
		return err
	}
	return s.pushPolicy(ctx, good, "ok")
}

func (s *site) pushPolicy(ctx context.Context, text, outcome string) error {
	for _, r := range s.replicas {
		err := s.changed(ctx, r, `temporal_seal_policy_reloads_total{outcome="`+outcome+`"}`, func() error {
			return harness.ReplaceFile(filepath.Join(r.dir, "policy.rego"), text)
		})
		if err != nil {
			return fmt.Errorf("new policy for replica %s: %w", r.name, err)
		}
	}
	return nil
}

// wait sleeps, or less if ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
