package azurekeyvault

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// location is a parsed URI.
type location struct {
	host, key  string
	signingKey string
	endpoint   string // of a stand-in on this host
}

// id is what envelopes name the key by. Names of keys ignore case.
func (l location) id() string { return l.host + "/keys/" + strings.ToLower(l.key) }

var (
	hostForm = regexp.MustCompile(`^[0-9a-z-]+(\.[0-9a-z-]+)+$`)
	nameForm = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)
)

// Check returns what is wrong with a URI, without asking the service.
func Check(uri string) error {
	_, err := parseURI(uri)
	return err
}

func parseURI(uri string) (loc location, err error) {
	rest, _ := strings.CutPrefix(uri, Scheme+"://")
	place, query, _ := strings.Cut(rest, "?")
	host, path, _ := strings.Cut(place, "/")
	name, isKey := strings.CutPrefix(path, "keys/")
	loc = location{host: strings.ToLower(host), key: name}
	switch {
	case !isKey || !hostForm.MatchString(loc.host):
		return loc, fmt.Errorf("%q does not name a key; write azurekeyvault://<vault>.vault.azure.net/keys/<name>", place)
	case strings.Contains(name, "/"):
		return loc, fmt.Errorf("%s: names a version of a key; name the key, whose newest version wraps", place)
	case !nameForm.MatchString(name):
		return loc, fmt.Errorf("%s: names of keys have 1 to 127 letters, digits and -", place)
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return loc, fmt.Errorf("%s: what follows the ? cannot be read; write signing_key=<name> there, or nothing", place)
	}
	for param, values := range params {
		switch {
		case len(values) != 1:
			return loc, fmt.Errorf("%s: parameter %q is there more than once", place, param)
		case param == "signing_key" && nameForm.MatchString(values[0]):
			loc.signingKey = values[0]
		case param == "signing_key":
			return loc, fmt.Errorf("%s: signing_key is the name of a key in the same vault, of letters, digits and -", place)
		case param == "endpoint":
			loc.endpoint = values[0]
			if err := checkEndpoint(values[0]); err != nil {
				return loc, fmt.Errorf("%s: %w", place, err)
			}
		default:
			return loc, fmt.Errorf("%s: unknown parameter %q; the parameters are signing_key and endpoint", place, param)
		}
	}
	if strings.EqualFold(loc.signingKey, loc.key) {
		return loc, fmt.Errorf("%s: signing_key is another key than the one that wraps", place)
	}
	return loc, nil
}

// checkEndpoint allows a stand-in on this host alone. Private endpoints have the name of the vault.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" || !loopback.Host(u.Hostname()) || u.User != nil || strings.Trim(u.Path, "/") != "" {
		return errors.New("endpoint is for tests: write http://127.0.0.1:<port>, or leave it out")
	}
	return nil
}

// Like those of other key services: the Keyring gives a call two seconds in all, so another try has to come quickly.
var retries = policy.RetryOptions{MaxRetries: 2, RetryDelay: 150 * time.Millisecond, MaxRetryDelay: 400 * time.Millisecond}

// clients are kept for all keys, with their tokens: each reload of the configuration opens its keys anew.
var clients struct {
	mu          sync.Mutex
	http        *http.Client
	credentials azcore.TokenCredential
	by          map[string]*azkeys.Client // by URL
}

// clientFor returns the client for the vault of a key. Making one sends nothing.
func clientFor(loc location) (*azkeys.Client, error) {
	address := "https://" + loc.host
	if loc.endpoint != "" {
		address = strings.TrimSuffix(loc.endpoint, "/")
	}
	clients.mu.Lock()
	defer clients.mu.Unlock()
	if client := clients.by[address]; client != nil {
		return client, nil
	}
	if clients.http == nil {
		clients.http = newHTTPClient()
		clients.by = make(map[string]*azkeys.Client)
	}
	var credentials azcore.TokenCredential
	if loc.endpoint == "" {
		if clients.credentials == nil {
			found, err := azidentity.NewDefaultAzureCredential(nil)
			if err != nil {
				return nil, err
			}
			clients.credentials = found
		}
		credentials = clients.credentials
	}
	options := azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{Retry: retries, Transport: clients.http}}
	client, err := azkeys.NewClient(address, credentials, &options)
	if err != nil {
		return nil, err
	}
	clients.by[address] = client
	return client, nil
}

func newHTTPClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second} // connections that have died silently
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token is for the host that the configuration names
	}}
}
