package contract

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// signer makes JWTs.
type signer struct{ key *ecdsa.PrivateKey }

func newSigner() *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // there is randomness
	}
	return &signer{key}
}

func part(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (s *signer) public() []byte {
	public, err := s.key.PublicKey.Bytes()
	if err != nil {
		panic(err) // the key was made here
	}
	return public
}

// keySet is a JSON Web Key Set with the public key.
func (s *signer) keySet() string {
	public := s.public()
	return fmt.Sprintf(
		`{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","alg":"ES256","use":"sig","x":%q,"y":%q}]}`,
		part(public[1:33]),
		part(public[33:]),
	)
}

// sign makes a token, good or bad. head changes its header: "none" leaves the signature out, "HS256" takes the public key
// for a secret.
func (s *signer) sign(head, claims map[string]any) string {
	all := map[string]any{"alg": "ES256", "kid": "k1", "typ": "JWT"}
	for k, v := range head {
		all[k] = v
	}
	h, _ := json.Marshal(all) // maps of plain values encode
	c, _ := json.Marshal(claims)
	signed := part(h) + "." + part(c)
	switch all["alg"] {
	case "none":
		return signed + "."
	case "HS256":
		mac := hmac.New(sha256.New, s.public())
		mac.Write([]byte(signed))
		return signed + "." + part(mac.Sum(nil))
	}
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		panic(err) // the key was made here
	}
	return signed + "." + part(append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...))
}

// certAuthority signs the certificates of the rig with TLS.
type certAuthority struct {
	cert                        *x509.Certificate
	key                         *ecdsa.PrivateKey
	file, serverCert, serverKey string
}

var authority *certAuthority

func newAuthority(dir string) (*certAuthority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	a := &certAuthority{
		key:        key,
		file:       filepath.Join(dir, "ca.pem"),
		serverCert: filepath.Join(dir, "server.pem"),
		serverKey:  filepath.Join(dir, "server.key"),
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	pair, err := a.issue("")
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, err
	}
	for path, block := range map[string]*pem.Block{a.file: {Type: "CERTIFICATE", Bytes: der}, a.serverCert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		a.serverKey: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// issue makes a certificate for a URI, for a common name with "cn:" in front, or for this machine.
func (a *certAuthority) issue(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	switch common, isCommon := strings.CutPrefix(name, "cn:"); {
	case name == "":
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	case isCommon:
		template.Subject.CommonName = common
	default:
		u, err := url.Parse(name)
		if err != nil {
			return tls.Certificate{}, err
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// withCertificate makes a call and returns its code. "" shows no certificate, "stranger:" one of another authority.
func (r *rig) withCertificate(t *testing.T, name, namespace string) string {
	t.Helper()
	from := authority
	uri, strange := strings.CutPrefix(name, "stranger:")
	if strange {
		other, err := newAuthority(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		from = other
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority.cert)
	config := &tls.Config{RootCAs: roots}
	if name != "" {
		pair, err := from.issue(uri)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	conn, err := grpc.NewClient(
		"passthrough:///"+r.listeners[byCertificate],
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = workflowservice.NewWorkflowServiceClient(
		conn,
	).SignalWorkflowExecution(
		t.Context(),
		&workflowservice.SignalWorkflowExecutionRequest{
			Namespace: namespace, WorkflowExecution: execution("w"), Input: list(text("CANARY"))},
	)
	return status.Code(err).String()
}
