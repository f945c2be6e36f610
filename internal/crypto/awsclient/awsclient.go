// Package awsclient configures clients of AWS services: where a service is, how often a call is tried, and what an error
// says. Credentials, role and proxy settings come from the SDK's default chain.
package awsclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// The Keyring gives a call two seconds in all, so the SDK's retries have to be quick ones.
const (
	attempts   = 3
	maxBackoff = 400 * time.Millisecond
)

// Load returns the configuration for a region; "" stands for that of the SDK's chain. It sends nothing yet.
func Load(ctx context.Context, region string) (cfg aws.Config, err error) {
	// The SDK's own log goes to standard error in a format of its own, and has nothing that its errors lack.
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	if cfg, err = config.LoadDefaultConfig(ctx, options...); err != nil {
		return cfg, fmt.Errorf("load the AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return cfg, errors.New("no region is set; add ?region=... to the URI, or set AWS_REGION")
	}
	cfg.HTTPClient = shared(cfg.HTTPClient)
	cfg.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = attempts, maxBackoff
		})
	}
	return cfg, nil
}

var ofAll crypto.Shared[aws.HTTPClient]

// shared returns the client of all services in the place of one that trusts the same authorities.
func shared(c aws.HTTPClient) aws.HTTPClient {
	own, ok := c.(*awshttp.BuildableClient)
	if !ok {
		return c
	}
	var authorities *x509.CertPool
	if t := own.GetTransport().TLSClientConfig; t != nil {
		authorities = t.RootCAs
	}
	return ofAll.Client(authorities, own.Freeze) // frozen, since a service's client makes a copy of any other
}

// Place is where a service is. Both fields may be empty.
type Place struct{ Region, Endpoint string }

// ParsePlace reads what follows the ? of a URI. what names the URI in errors.
func ParsePlace(what, query string) (p Place, err error) {
	params, err := url.ParseQuery(query)
	if err != nil {
		return p, fmt.Errorf("%s: the parameters behind ? cannot be read: %w", what, err)
	}
	for name, values := range params {
		switch {
		case len(values) != 1:
			return p, fmt.Errorf("%s: parameter %q is there more than once", what, name)
		case name == "region":
			p.Region = values[0]
		case name == "endpoint":
			p.Endpoint = values[0]
		default:
			return p, fmt.Errorf("%s: unknown parameter %q; the parameters are region and endpoint", what, name)
		}
	}
	return p, checkEndpoint(p.Endpoint)
}

// checkEndpoint refuses plain http off this host: data keys would cross the network in clear.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http"):
		return errors.New("endpoint is not a URL; write https://<host>[:port] without user and password")
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		return fmt.Errorf("endpoint %s: plain http shows keys to the network; use https (http is allowed to this host only)", endpoint)
	}
	return nil
}

// ErrorCode is the code that a service answered with, or "" for everything else: no answer, and also an answer of another
// service that was asked for credentials, whose AccessDenied says nothing about the first one.
func ErrorCode(service string, err error) string {
	for e := err; e != nil; {
		var op *smithy.OperationError
		if !errors.As(e, &op) {
			break
		}
		if op.Service() != service {
			return ""
		}
		e = op.Unwrap()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// Brief is a service's answer without the SDK's account of request ids and attempts; the error below stays reachable.
func Brief(service string, err error) error {
	var api smithy.APIError
	if code := ErrorCode(service, err); code != "" && errors.As(err, &api) {
		return &answered{text: code + ": " + api.ErrorMessage(), err: err}
	}
	return err
}

type answered struct {
	text string
	err  error
}

func (a *answered) Error() string { return a.text }
func (a *answered) Unwrap() error { return a.err }
