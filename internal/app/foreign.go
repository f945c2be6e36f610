package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// ForeignReader reads the keys, and asks the KMS keys for an answer. It is nil if nothing foreign is
// configured.
func ForeignReader(ctx context.Context, c *config.Config, timeout time.Duration) (*foreign.Reader, error) {
	if len(c.Foreign) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var errs []error
	sources := make([]foreign.Source, 0, len(c.Foreign))
	for i := range c.Foreign {
		s, err := foreignSource(ctx, &c.Foreign[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("foreign[%d]: %w", i, err))
		}
		sources = append(sources, s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return foreign.New(sources)
}

// foreignSource reads the keys of one entry.
func foreignSource(ctx context.Context, f *config.Foreign) (foreign.Source, error) {
	s := foreign.Source{Name: f.EntryName(), Namespaces: f.Namespaces, Format: foreign.Format(f.Format),
		SealedAs: f.SealedAs}
	if f.KMS != "" {
		key, err := awskms.OpenKey(ctx, f.KMS)
		if err != nil {
			return s, fmt.Errorf("kms: %w", err)
		}
		s.Unwrap = key.Decrypt
	}
	for i := range f.Keys {
		key, err := f.Keys[i].Read()
		if err != nil {
			return s, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if s.Keys == nil {
			s.Keys = make(map[string][]byte)
		}
		s.Keys[f.Keys[i].ID] = key
	}
	return s, nil
}
