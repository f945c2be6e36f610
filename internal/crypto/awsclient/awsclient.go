// Package awsclient configures clients of AWS services: where a service is, how often a call is tried, and what an error
// says. Credentials and proxy settings come from the SDK's default chain, unless a URI names a profile or a role.
package awsclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
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

// sessionName is what CloudTrail shows for roles that are assumed here.
const sessionName = "temporal-seal"

// Load returns the configuration for a place. It sends nothing yet.
func Load(ctx context.Context, place Place) (cfg aws.Config, err error) {
	// The SDK's own log goes to standard error in a format of its own, and has nothing that its errors lack.
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})}
	if place.Region != "" {
		options = append(options, config.WithRegion(place.Region))
	}
	if place.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(place.Profile))
	}
	if place.FIPS {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
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
	if place.RoleARN != "" {
		role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), place.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = sessionName
			if place.ExternalID != "" {
				o.ExternalID = aws.String(place.ExternalID)
			}
		})
		cfg.Credentials = aws.NewCredentialsCache(role)
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

// Place is where a service is, and as whom it is called. The zero value leaves all that to the SDK's chain.
type Place struct {
	Region, Endpoint    string
	Profile             string // of the shared configuration
	RoleARN, ExternalID string // of a role to assume, with the credentials of the chain or the profile
	FIPS                bool   // the endpoints that AWS has for FIPS 140
}

// ParsePlace reads what follows the ? of a URI. what names the URI in errors.
func ParsePlace(what, query string) (p Place, err error) {
	params, err := url.ParseQuery(query)
	if err != nil {
		return p, fmt.Errorf("%s: the parameters behind ? cannot be read: %w", what, err)
	}
	fips := "off"
	texts := map[string]*string{"region": &p.Region, "endpoint": &p.Endpoint, "profile": &p.Profile, "role_arn": &p.RoleARN,
		"external_id": &p.ExternalID, "fips": &fips}
	for name, values := range params {
		text := texts[name]
		switch {
		case text == nil:
			return p, fmt.Errorf("%s: unknown parameter %q; the parameters are region, endpoint, role_arn, external_id, profile and fips", what, name)
		case len(values) != 1:
			return p, fmt.Errorf("%s: parameter %q is there more than once", what, name)
		}
		*text = values[0]
	}
	switch {
	case fips != "on" && fips != "off":
		return p, fmt.Errorf("%s: fips is on or off, not %q", what, fips)
	case fips == "on" && p.Endpoint != "":
		return p, fmt.Errorf("%s: fips=on and endpoint contradict each other; write the endpoint for FIPS 140, or leave endpoint out", what)
	case p.RoleARN != "" && !isRole(p.RoleARN):
		return p, fmt.Errorf("%s: role_arn %q is not the ARN of a role; write arn:aws:iam::<account>:role/<name>", what, p.RoleARN)
	case p.ExternalID != "" && p.RoleARN == "":
		return p, fmt.Errorf("%s: external_id belongs to role_arn, which is missing", what)
	}
	p.FIPS = fips == "on"
	return p, checkEndpoint(p.Endpoint)
}

// isRole reports whether an ARN names a role: arn:<partition>:iam::<account>:role/<name>.
func isRole(arn string) bool {
	parts := strings.Split(arn, ":")
	return len(parts) == 6 && parts[0] == "arn" && parts[2] == "iam" && parts[4] != "" && strings.HasPrefix(parts[5], "role/")
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
	// The endpoint of a container's credentials has errors like those of a service, without an operation around them.
	var answer *awshttp.ResponseError
	var api smithy.APIError
	if errors.As(err, &answer) && errors.As(answer, &api) {
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
