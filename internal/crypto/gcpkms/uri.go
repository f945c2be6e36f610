package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"

	kms "cloud.google.com/go/kms/apiv1"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// location is a parsed URI. It is also what keys have to agree on, but for the name, to share a client.
type location struct {
	name     string // of the resource
	endpoint string // <host>:<port>; "" for Google's
	plain    bool   // without TLS and credentials
}

var resource = regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$`)

// Check returns what is wrong with a URI, without asking the service.
func Check(uri string) error {
	_, err := parseURI(uri)
	return err
}

func parseURI(uri string) (loc location, err error) {
	rest, ok := strings.CutPrefix(uri, Scheme+"://")
	name, query, _ := strings.Cut(rest, "?")
	switch {
	case strings.Contains(name, "/cryptoKeyVersions/"):
		return loc, fmt.Errorf("%s: names a version of a key; name the key, whose primary version encrypts", name)
	case !ok || !resource.MatchString(name):
		return loc, fmt.Errorf("%q does not name a key; write gcpkms://projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>", name)
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return loc, fmt.Errorf("%s: what follows the ? cannot be read; write endpoint=<URL> there, or nothing", name)
	}
	loc.name = name
	for param, values := range params {
		if param != "endpoint" || len(values) != 1 {
			return loc, fmt.Errorf("%s: parameter %q is unknown, or is there twice; the only parameter is endpoint", name, param)
		}
		if loc.endpoint, loc.plain, err = parseEndpoint(values[0]); err != nil {
			return loc, fmt.Errorf("%s: %w", name, err)
		}
	}
	return loc, nil
}

// parseEndpoint refuses plain http off this host: data keys would cross the network in clear.
func parseEndpoint(endpoint string) (address string, plain bool, err error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", false, errors.New("endpoint: write https://<host>[:port], with no user, password and path")
	case u.Scheme == "http" && !loopback.Host(u.Hostname()):
		return "", false, errors.New("endpoint: plain http shows data keys to the network; use https (http is allowed to this host only)")
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port), u.Scheme == "http", nil
}

// clients are kept for all keys: each reload of the configuration opens its keys anew.
var clients struct {
	mu sync.Mutex
	by map[location]*kms.KeyManagementClient
}

// clientFor returns the client for the endpoint of a key. Making one finds the credentials, and sends nothing to the service.
func clientFor(ctx context.Context, loc location) (*kms.KeyManagementClient, error) {
	loc.name = ""
	clients.mu.Lock()
	defer clients.mu.Unlock()
	if client := clients.by[loc]; client != nil {
		return client, nil
	}
	var options []option.ClientOption
	if loc.endpoint != "" {
		options = append(options, option.WithEndpoint(loc.endpoint))
	}
	if loc.plain {
		options = append(options, option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	client, err := kms.NewKeyManagementClient(context.WithoutCancel(ctx), options...) // credentials are renewed for as long as it lives
	if err != nil {
		return nil, fmt.Errorf("%w; give the proxy Google Cloud credentials: workload identity, or a file that GOOGLE_APPLICATION_CREDENTIALS names", err)
	}
	if clients.by == nil {
		clients.by = make(map[location]*kms.KeyManagementClient)
	}
	clients.by[loc] = client
	return client, nil
}
