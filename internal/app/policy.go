package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// PolicyOptions say where the policy comes from. keys nil: without knowing which keys there are.
func PolicyOptions(c *config.Config, keys *keyring.Keyring) (policy.Options, error) {
	o := policy.Options{File: c.Policy.File, Namespaces: c.Policy.Namespaces, Shipped: temporalseal.ShippedPolicy}
	if keys != nil {
		o.KeyRank, o.DefaultKey = keys.Rank, keys.DefaultKey
	}
	b := c.Policy.Bundle
	if b == nil {
		return o, nil
	}
	o.Bundle = &policy.Bundle{URL: b.URL, TokenFile: b.TokenFile, Algorithm: b.Algorithm, Scope: b.Scope, Folder: b.Folder, Poll: b.Poll}
	if b.PublicKeyFile != "" {
		key, err := os.ReadFile(b.PublicKeyFile)
		if err != nil {
			return o, fmt.Errorf("policy.bundle.public_key_file: %w", err)
		}
		o.Bundle.PublicKey = string(key)
	}
	return o, nil
}

func newEngine(ctx context.Context, c *config.Config, keys *keyring.Keyring, registry prometheus.Registerer) (*policy.Engine, error) {
	options, err := PolicyOptions(c, keys)
	if err != nil {
		return nil, err
	}
	engine, err := policy.NewEngine(ctx, options)
	if err != nil {
		return nil, PolicyError(err)
	}
	registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "temporal_seal_policy_evaluations_total", Help: "Decisions that had to be evaluated, since the memo held none for them."},
			func() float64 { all, _ := engine.Evaluations(); return float64(all) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "temporal_seal_policy_content_evaluations_total", Help: "Of those, decisions that hung on a payload's content, so that the memo never holds them."},
			func() float64 { _, withContent := engine.Evaluations(); return float64(withContent) }))
	return engine, nil
}

// tryPolicy loads the policy without keys, if it is in files.
func tryPolicy(ctx context.Context, c *config.Config) error {
	if c.Policy.Bundle != nil {
		return nil
	}
	options, err := PolicyOptions(c, nil)
	if err != nil {
		return err
	}
	_, err = policy.Load(ctx, options)
	return PolicyError(err)
}

// PolicyError tells one fault per place: the compiler often finds several in one typing mistake.
func PolicyError(err error) error {
	if err == nil {
		return nil
	}
	var lines []string
	told := map[string]bool{}
	for line := range strings.SplitSeq(strings.TrimRight(PrefixLines("policy: ", err).Error(), "\n"), "\n") {
		if parts := strings.SplitN(line, ":", 4); len(parts) == 4 {
			place := parts[1] + ":" + parts[2]
			if told[place] {
				continue
			}
			told[place] = true
		}
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "\n"))
}

// PrefixLines says of each of several joined errors where it belongs.
func PrefixLines(prefix string, err error) error {
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, prefix) {
			lines[i] = prefix + line
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}
