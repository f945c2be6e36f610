package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// ForeignReader reads the keys, and asks the KMS keys for an answer. It is nil if nothing foreign is
// configured.
func ForeignReader(ctx context.Context, c *config.Config, timeout time.Duration) (*foreign.Reader, error) {
	reader, unanswered, err := foreignReader(ctx, c, timeout)
	if err = errors.Join(append(unanswered, err)...); err != nil {
		return nil, err
	}
	return reader, nil
}

// foreignReader is ForeignReader for a proxy that does without KMS keys until they answer. unanswered says which do not.
func foreignReader(ctx context.Context, c *config.Config, timeout time.Duration) (r *foreign.Reader, unanswered []error, err error) {
	if len(c.Foreign) == 0 {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var errs []error
	sources := make([]foreign.Source, 0, len(c.Foreign))
	for i := range c.Foreign {
		s, missing, err := foreignSource(ctx, &c.Foreign[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("foreign[%d]: %w", i, err))
		}
		if missing != nil {
			unanswered = append(unanswered, fmt.Errorf("foreign[%d]: %w", i, missing))
		}
		sources = append(sources, s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, unanswered, err
	}
	r, err = foreign.New(sources)
	return r, unanswered, err
}

// foreignSource reads the keys of one entry. missing is why its KMS key does not answer; each payload asks for it again then.
func foreignSource(ctx context.Context, f *config.Foreign) (s foreign.Source, missing, err error) {
	s = foreign.Source{Name: f.EntryName(), Namespaces: f.Namespaces, Format: foreign.Format(f.Format),
		SealedAs: f.SealedAs, KMS: f.KMS}
	if f.KMS != "" {
		key, err := keyservice.OpenForeign(ctx, f.KMS)
		switch {
		case err == nil:
			s.Unwrap = key.Decrypt
		case crypto.KindOf(err) == crypto.KindNotConfigured:
			return s, nil, fmt.Errorf("kms: %w", err)
		default:
			missing = fmt.Errorf("kms: %w", err)
			s.Unwrap = unwrapLate(f.KMS)
		}
	}
	for i := range f.Keys {
		key, err := f.Keys[i].Read()
		if err != nil {
			return s, nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if s.Keys == nil {
			s.Keys = make(map[string][]byte)
		}
		s.Keys[f.Keys[i].ID] = key
	}
	return s, missing, nil
}

// unwrapLate opens a KMS key for each data key, for one that has not answered yet.
func unwrapLate(uri string) func(context.Context, []byte, map[string]string) ([]byte, error) {
	return func(ctx context.Context, wrapped []byte, bound map[string]string) ([]byte, error) {
		key, err := keyservice.OpenForeign(ctx, uri)
		if err != nil {
			return nil, err
		}
		return key.Decrypt(ctx, wrapped, bound)
	}
}
