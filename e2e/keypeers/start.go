package keypeers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault/azuretest"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

const region = "eu-central-1"

// Service is a key service that runs with keys, until Stop.
type Service struct {
	What string            // it is, and what stands in for it
	URIs map[string]string // of keys, by their names
	Env  []string          // what a process that uses the keys has in its environment

	dir   string
	stops []func()
}

// starters start each key service, by the scheme of its keys' URIs.
var starters = map[string]func(ctx context.Context, s *Service, names []string, progress io.Writer) error{
	"local":         startLocal,
	"awskms":        startMoto,
	"gcpkms":        startGoogle,
	"azurekeyvault": startAzure,
	"vault":         startOpenBao,
	"plugin":        startPlugin,
}

// Schemes are the key services that Start knows.
func Schemes() []string {
	var all []string
	for scheme := range starters {
		all = append(all, scheme)
	}
	slices.Sort(all)
	return all
}

// Start starts a key service with keys of these names. Files are in dir, whose path has to be short enough for that of a socket.
// moto, OpenBao and the plug-in need python3 and, the first time, PyPI.
func Start(ctx context.Context, scheme, dir string, names []string, progress io.Writer) (*Service, error) {
	start := starters[scheme]
	if start == nil {
		return nil, fmt.Errorf("there is no key service %q; write one of %s", scheme, strings.Join(Schemes(), ", "))
	}
	s := &Service{URIs: map[string]string{}, dir: dir}
	if err := start(ctx, s, names, progress); err != nil {
		s.Stop()
		return nil, fmt.Errorf("%s: %w", scheme, err)
	}
	return s, nil
}

// Stop ends the service.
func (s *Service) Stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
	s.stops = nil
}

func startLocal(_ context.Context, s *Service, names []string, _ io.Writer) error {
	s.What = "files on this machine"
	for _, name := range names {
		path := filepath.Join(s.dir, name+".key")
		if err := localkey.Create(path, time.Now()); err != nil {
			return err
		}
		s.URIs[name] = "local:" + path
	}
	return nil
}

func startMoto(ctx context.Context, s *Service, names []string, progress io.Writer) error {
	endpoint, p, err := harness.StartMoto(ctx, progress)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, p.Kill)
	s.What = "AWS KMS, played by moto on " + endpoint
	s.Env = []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}
	for _, name := range names {
		id, err := createMotoKey(ctx, endpoint)
		if err != nil {
			return err
		}
		s.URIs[name] = "awskms://" + id + "?region=" + region + "&endpoint=" + endpoint
	}
	return nil
}

// createMotoKey calls CreateKey. moto reads the region from the signature, and does not verify it.
func createMotoKey(ctx context.Context, endpoint string) (id string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Amz-Target", "TrentService.CreateKey")
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/"+region+"/kms/aws4_request, SignedHeaders=host, Signature=0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var made struct{ KeyMetadata struct{ KeyID string } }
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&made); err != nil || made.KeyMetadata.KeyID == "" {
		return "", fmt.Errorf("CreateKey: %s: %s", resp.Status, text)
	}
	return made.KeyMetadata.KeyID, nil
}

func startGoogle(_ context.Context, s *Service, names []string, _ io.Writer) error {
	google := new(Google)
	address, stop, err := google.Serve()
	if err != nil {
		return err
	}
	s.stops = append(s.stops, stop)
	s.What = "a stand-in of Google Cloud KMS on " + address
	for _, name := range names {
		key := "projects/demo/locations/europe-west3/keyRings/seal/cryptoKeys/" + name
		google.Add(key)
		s.URIs[name] = "gcpkms://" + key + "?endpoint=http://" + address
	}
	return nil
}

func startAzure(_ context.Context, s *Service, names []string, _ io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	vault := new(azuretest.Vault)
	server := &http.Server{Handler: vault}
	go func() { _ = server.Serve(l) }()
	s.stops = append(s.stops, func() { _ = server.Close() })
	s.What = "a stand-in of Azure Key Vault on " + l.Addr().String() + ", with RSA keys and a signing key"
	vault.Add("signing", "EC")
	for _, name := range names {
		vault.Add(name, "RSA")
		s.URIs[name] = "azurekeyvault://seal.vault.azure.net/keys/" + name + "?signing_key=signing&endpoint=http://" + l.Addr().String()
	}
	return nil
}

func startOpenBao(ctx context.Context, s *Service, names []string, progress io.Writer) error {
	bao, err := harness.StartOpenBao(ctx, s.dir, progress)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, func() { _ = bao.Stop() })
	s.What = "HashiCorp Vault's transit engine, played by OpenBao on " + bao.Host
	if err := bao.Call(ctx, http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"}, nil); err != nil {
		return err
	}
	var policy strings.Builder
	token := filepath.Join(s.dir, "vault-token")
	for _, name := range names {
		if err := bao.Call(ctx, http.MethodPost, "transit/keys/"+name, nil, nil); err != nil {
			return err
		}
		for _, rule := range [][2]string{{"encrypt", "update"}, {"decrypt", "update"}, {"keys", "read"}} {
			fmt.Fprintf(&policy, "path \"transit/%s/%s\" { capabilities = [\"%s\"] }\n", rule[0], name, rule[1])
		}
		s.URIs[name] = "vault://" + bao.Host + "/transit/" + name + "?ca_file=" + bao.Authority + "&token_file=" + token
	}
	if err := bao.Call(ctx, http.MethodPut, "sys/policies/acl/proxy", map[string]any{"policy": policy.String()}, nil); err != nil {
		return err
	}
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if err := bao.Call(ctx, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"proxy"}}, &made); err != nil {
		return err
	}
	return os.WriteFile(token, []byte(made.Auth.Token), 0o600)
}

func startPlugin(ctx context.Context, s *Service, names []string, progress io.Writer) error {
	keys, socket := filepath.Join(s.dir, "plugin-keys"), filepath.Join(s.dir, "plugin.sock")
	if err := os.Mkdir(keys, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(keys, name), randomKey(), 0o600); err != nil {
			return err
		}
		s.URIs[name] = "plugin://main/" + name + "?service=KeyService&address=unix:" + socket
	}
	p, err := StartPlugin(ctx, progress, filepath.Join(harness.Root(), "examples", "key-plugin", "server.py"), socket, nil, "--keys", keys)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, p.Kill)
	s.What = "the plug-in of examples/key-plugin, a server in Python on " + socket
	return nil
}
