package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	temporalseal "github.com/temporal-seal/temporal-seal"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// PolicyOptions returns where the policy comes from, and which keys it may name. keys nil: any.
func PolicyOptions(c *config.Config, keys *keyring.Keyring) (policy.Options, error) {
	o := policy.Options{File: c.Policy.File, Namespaces: c.Policy.Namespaces, Shipped: temporalseal.ShippedPolicy,
		RPCs: rewrite.RPCs(), Unmatched: envelope.Unmatched, Masker: envelope.MaskDocument,
		MissingSubject: rewrite.MissingSubject, NoSubjects: c.KeyStore.NoSubjects()}
	if keys != nil {
		o.KeyRank, o.DefaultKey = keys.Rank, keys.DefaultKey
	}
	b := c.Policy.Bundle
	if b == nil {
		return o, nil
	}
	o.Bundle = &policy.Bundle{URL: b.URL, TokenFile: b.TokenFile, Algorithm: b.Algorithm, Scope: b.Scope,
		Folder: b.Folder, Poll: b.Poll}
	if b.PublicKeyFile != "" {
		key, err := os.ReadFile(b.PublicKeyFile)
		if err != nil {
			return o, fmt.Errorf("policy.bundle.public_key_file: %w", err)
		}
		o.Bundle.PublicKey = string(key)
	}
	return o, nil
}

// newEngine loads the policy against the keys.
func newEngine(
	ctx context.Context, c *config.Config, keys *keyring.Keyring, t *telemetry,
) (*policy.Engine, error) {
	options, err := PolicyOptions(c, keys)
	if err != nil {
		return nil, err
	}
	engine, err := policy.NewEngine(ctx, options)
	if err != nil {
		return nil, policyError(err)
	}
	t.count("temporal_seal_policy_evaluations_total",
		"Decisions that had to be evaluated, since the policy cache held none for them.", nil,
		func() uint64 { all, _ := engine.Evaluations(); return all })
	t.count("temporal_seal_policy_content_evaluations_total",
		"Of those, decisions that depended on a payload's content, which the policy cache never holds.", nil,
		func() uint64 { _, withContent := engine.Evaluations(); return withContent })
	return engine, nil
}

// LoadPolicy loads the policy once. keys nil: without knowing which keys there are.
func LoadPolicy(ctx context.Context, c *config.Config, keys *keyring.Keyring) (*policy.Policy, error) {
	options, err := PolicyOptions(c, keys)
	if err != nil {
		return nil, err
	}
	p, err := policy.Load(ctx, options)
	return p, policyError(err)
}

// policyError keeps one fault for each place: the compiler often finds several in one typing mistake.
func policyError(err error) error {
	if err == nil {
		return nil
	}
	seen := map[string]bool{}
	lines := strings.Split(prefixLines("policy: ", err).Error(), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool {
		parts := strings.SplitN(line, ":", 4) // policy: <file>:<line>: <fault>
		if len(parts) < 4 {
			return false
		}
		place := parts[1] + ":" + parts[2]
		again := seen[place]
		seen[place] = true
		return again
	})
	return errors.New(strings.Join(lines, "\n"))
}

// prefixLines puts a prefix before each of several joined errors that has none.
func prefixLines(prefix string, err error) error {
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, prefix) {
			lines[i] = prefix + line
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}
