package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
)

// referenceCommand prints the reference by which envelopes name a key, so that operators find the key of a reference that a log
// line or a scan shows.
func referenceCommand() *cobra.Command {
	var timeout time.Duration
	var output outputFormat
	cmd := &cobra.Command{
		Use:   "reference URI|ARN",
		Short: "Print the reference by which envelopes, metrics and scans name a key",
		Long: `reference prints the 16 hex digits by which envelopes name a key encryption key, and the key that its URI means. A whole
ARN of a KMS key is enough and needs no answer of KMS, so that the keys of an account can be compared with a reference that a log
line or a scan shows. An alias is looked up: it means the key that it names now.`,
		Example: `  temporal-seal keys reference arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab
  temporal-seal keys reference 'awskms://alias/temporal-phi?region=eu-central-1'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			r, err := referenceOf(ctx, args[0])
			if err != nil {
				return err
			}
			if output.json() {
				return writeJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", r.KEK, r.Key)
			return err
		},
	}
	addTimeout(&timeout, cmd)
	output.flag(cmd)
	return cmd
}

// keyReference is what keys reference prints.
type keyReference struct {
	KEK string `json:"kek"`
	// The key that the URI means: of awskms its ARN, else the URI.
	Key string `json:"key"`
}

func referenceOf(ctx context.Context, uri string) (keyReference, error) {
	if strings.HasPrefix(uri, "arn:") {
		uri = awskms.Scheme + "://" + uri
	}
	if ref, arn, ok := awskms.Reference(uri); ok {
		return keyReference{ref.String(), arn}, nil
	}
	p, err := keyservice.Open(ctx, uri)
	if err != nil {
		return keyReference{}, fmt.Errorf("%s: %w", uri, err)
	}
	return keyReference{p.Ref().String(), cmp.Or(crypto.ARNOf(p), uri)}, nil
}
