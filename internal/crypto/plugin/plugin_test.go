package plugin

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/pem"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/plugin/pluginpb"
)

var clinic = crypto.KeyContext{Namespace: "clinic", Key: "phi"}

// server is a plug-in with one key, which fails as a test requires. What a server in another language does, e2e/providers sees.
type server struct {
	pluginpb.UnimplementedEncryptionServiceServer
	pluginpb.UnimplementedKeyServiceServer
	gcm cipher.AEAD

	mu        sync.Mutex
	token     string
	fails     func(method string) error
	namespace string // that of the latest call
	unbound   bool   // ignores the context
	careless  bool   // authenticates nothing
	echo      bool   // gives back the data key as it is
	short     bool   // unwraps to another length
}

func (s *server) change(f func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *server) check(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	if got := strings.Join(md.Get("authorization"), ","); s.token != "" && got != "Bearer "+s.token {
		return nil, status.Errorf(codes.Unauthenticated, "the token %s is unknown", got)
	}
	if s.fails != nil {
		if err := s.fails(info.FullMethod); err != nil {
			return nil, err
		}
	}
	return handle(ctx, req)
}

func (s *server) seal(plain []byte, kc *pluginpb.KeyContext) []byte {
	switch {
	case s.echo:
		return append([]byte("wrapped:"), plain...)
	case s.careless:
		out := bytes.Clone(plain)
		for i := range out {
			out[i] ^= 0x55
		}
		return out
	}
	return s.gcm.Seal(nil, nil, plain, s.aad(kc))
}

func (s *server) open(wrapped []byte, kc *pluginpb.KeyContext) ([]byte, error) {
	switch {
	case s.short:
		return []byte("short"), nil
	case s.careless:
		return s.seal(wrapped, kc), nil
	}
	plain, err := s.gcm.Open(nil, nil, wrapped, s.aad(kc))
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "not wrapped here")
	}
	return plain, nil
}

func (s *server) aad(kc *pluginpb.KeyContext) []byte {
	if s.unbound || kc == nil {
		return nil
	}
	aad, _ := proto.MarshalOptions{Deterministic: true}.Marshal(kc)
	return aad
}

func (s *server) Encrypt(_ context.Context, in *pluginpb.EncryptRequest) (*pluginpb.EncryptResponse, error) {
	s.namespace = in.Namespace
	return &pluginpb.EncryptResponse{Ciphertext: s.seal(in.Plaintext, nil)}, nil
}

func (s *server) Decrypt(_ context.Context, in *pluginpb.DecryptRequest) (*pluginpb.DecryptResponse, error) {
	plain, err := s.open(in.Ciphertext, nil)
	return &pluginpb.DecryptResponse{Plaintext: plain}, err
}

func (s *server) Wrap(_ context.Context, in *pluginpb.WrapRequest) (*pluginpb.WrapResponse, error) {
	if in.Key != "phi" {
		return nil, status.Error(codes.NotFound, "no such key")
	}
	return &pluginpb.WrapResponse{Wrapped: s.seal(in.Plaintext, in.Context)}, nil
}

func (s *server) Unwrap(_ context.Context, in *pluginpb.UnwrapRequest) (*pluginpb.UnwrapResponse, error) {
	plain, err := s.open(in.Wrapped, in.Context)
	return &pluginpb.UnwrapResponse{Plaintext: plain}, err
}

// start starts a plug-in on a socket, and returns the URI of its key.
func start(t *testing.T, options ...grpc.ServerOption) (s *server, uri string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugin") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	s = serve(t, "unix", socket, options...)
	return s, "plugin://main/phi?address=unix:" + socket
}

func serve(t *testing.T, network, address string, options ...grpc.ServerOption) *server {
	t.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := new(server)
	if s.gcm, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(options, grpc.UnaryInterceptor(s.check))...)
	pluginpb.RegisterEncryptionServiceServer(g, s)
	pluginpb.RegisterKeyServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	s.namespace = l.Addr().String()
	return s
}

func open(t *testing.T, uri string) *Provider {
	t.Helper()
	p, err := Open(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Provider)
}

func TestDataKeys(t *testing.T) {
	for _, service := range []string{"", "&service=EncryptionService", "&service=KeyService"} {
		s, uri := start(t)
		p := open(t, uri+service)
		if want := crypto.NewKEKRef("plugin", "main/phi"); p.Ref() != want || p.URI() != uri+service {
			t.Errorf("reference %s, URI %s; want %s", p.Ref(), p.URI(), want)
		}
		plain, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
		if err != nil || len(plain) != 32 {
			t.Fatal(len(plain), err)
		}
		if got, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: unwrapped to another key, error %v", service, err)
		}
		wrapped[0] ^= 1
		if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != crypto.KindRejected {
			t.Errorf("%s: changed: %v", service, err)
		}
		if service != "&service=KeyService" && s.namespace != "clinic" {
			t.Errorf("%s: the plug-in received namespace %q", service, s.namespace)
		}
	}
}

// TestContextIsBound: KeyService refuses a data key of another namespace or key name.
func TestContextIsBound(t *testing.T) {
	_, uri := start(t)
	p := open(t, uri+"&service=KeyService")
	_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	for _, kc := range []crypto.KeyContext{{Namespace: "billing", Key: "phi"}, {Namespace: "clinic", Key: "default"}} {
		if _, err := p.UnwrapDataKey(t.Context(), wrapped, kc); crypto.KindOf(err) != crypto.KindRejected {
			t.Errorf("in %v: %v", kc, err)
		}
	}
}

// TestOpenIsCareful: a server that does not protect what it wraps is refused before anything is sealed.
func TestOpenIsCareful(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*server)
		kind   crypto.Kind
		text   string
		params string
	}{
		"an echo":              {func(s *server) { s.echo = true }, crypto.KindNotConfigured, "shows the data key", ""},
		"no authentication":    {func(s *server) { s.careless = true }, crypto.KindNotConfigured, "has to authenticate", ""},
		"an ignored context":   {func(s *server) { s.unbound = true }, crypto.KindNotConfigured, "ignores the context", "&service=KeyService"},
		"an unknown service":   {failing(codes.Unimplemented), crypto.KindUnavailable, "service=KeyService", ""},
		"a disabled key":       {failing(codes.FailedPrecondition), crypto.KindRevoked, "FailedPrecondition", ""},
		"no authority":         {func(*server) {}, crypto.KindNotConfigured, "ca_file", "tls"},
		"no token":             {func(*server) {}, crypto.KindUnavailable, "token_file", "&token_file=/nowhere"},
		"a token that is none": {func(*server) {}, crypto.KindUnavailable, "holds no token", "&token_file=/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			s, uri := start(t)
			s.change(c.change)
			if uri += c.params; c.params == "tls" {
				uri = "plugin://main/phi?address=127.0.0.1:1&ca_file=/dev/null"
			}
			if _, err := Open(t.Context(), uri); crypto.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want kind %v and %q", err, c.kind, c.text)
			}
		})
	}
	s, uri := start(t)
	s.change(failing(codes.PermissionDenied))
	if _, err := Open(t.Context(), uri); err != nil {
		t.Errorf("a key that may only unwrap: %v", err)
	}
}

func failing(code codes.Code) func(*server) {
	return func(s *server) { s.fails = func(string) error { return status.Error(code, "CANARY") } }
}

// TestFailures is the table of what each status code means. No error has the server's text.
func TestFailures(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[codes.Code][2]crypto.Kind{
		codes.InvalidArgument:    {crypto.KindNotConfigured, crypto.KindRejected},
		codes.OutOfRange:         {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.DataLoss:           {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.FailedPrecondition: {crypto.KindRevoked, crypto.KindRevoked},
		codes.NotFound:           {crypto.KindRevoked, crypto.KindRevoked},
		codes.PermissionDenied:   {crypto.KindDenied, crypto.KindDenied},
		codes.Unimplemented:      {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.Unauthenticated:    {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.Unavailable:        {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.ResourceExhausted:  {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.Internal:           {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.Unknown:            {crypto.KindUnavailable, crypto.KindUnavailable},
		codes.DeadlineExceeded:   {crypto.KindUnavailable, crypto.KindUnavailable},
	} {
		s.change(failing(code))
		_, _, wrapErr := p.GenerateDataKey(t.Context(), clinic)
		_, unwrapErr := p.UnwrapDataKey(t.Context(), wrapped, clinic)
		if got := [2]crypto.Kind{crypto.KindOf(wrapErr), crypto.KindOf(unwrapErr)}; got != want {
			t.Errorf("%v: %v, want %v", code, got, want)
		}
		if text := errors.Join(wrapErr, unwrapErr).Error(); strings.Contains(text, "CANARY") || !strings.Contains(text, uri) {
			t.Errorf("%v: the error has the server's text, or not the key: %s", code, text)
		}
	}
	s.change(func(s *server) { s.fails, s.short = nil, true })
	if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != crypto.KindRejected {
		t.Errorf("no data key: %v", err)
	}
}

// TestRetries: a call that may succeed in a moment is made again.
func TestRetries(t *testing.T) {
	s, uri := start(t)
	p := open(t, uri)
	calls := 0
	s.change(func(s *server) {
		s.fails = func(string) error {
			if calls++; calls < 3 {
				return status.Error(codes.Unavailable, "")
			}
			return nil
		}
	})
	if _, _, err := p.GenerateDataKey(t.Context(), clinic); err != nil || calls != 3 {
		t.Errorf("error %v after %d calls", err, calls)
	}
}

// TestTLS: the server has to prove its name, and the token is read for each call.
func TestTLS(t *testing.T) {
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})))
	token := write("token", "CANARY\n")
	s := serve(t, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewServerTLSFromCert(&web.TLS.Certificates[0])))
	uri := "plugin://main/phi?address=" + s.namespace + "&token_file=" + token
	s.change(func(s *server) { s.token = "CANARY" })
	p := open(t, uri+"&ca_file="+ca)
	if again := open(t, uri+"&ca_file="+ca); again.conn != p.conn {
		t.Error("the same key opened again has a connection of its own")
	}
	if _, err := Open(t.Context(), uri); crypto.KindOf(err) != crypto.KindUnavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the system's authorities: %v", err)
	}
	s.change(func(s *server) { s.token = "next" })
	if _, _, err := p.GenerateDataKey(t.Context(), clinic); crypto.KindOf(err) != crypto.KindUnavailable || strings.Contains(err.Error(), "CANARY") {
		t.Errorf("with the old token: %v", err)
	}
	write("token", "next")
	if _, _, err := p.GenerateDataKey(t.Context(), clinic); err != nil {
		t.Errorf("with the new one: %v", err)
	}
}

// TestForeign: what an extension server encrypted for Temporal's own proxy opens, without a check of the server.
func TestForeign(t *testing.T) {
	s, uri := start(t)
	plain := bytes.Repeat([]byte{7}, 32)
	wrapped := s.seal(plain, nil)
	s.change(func(s *server) {
		s.fails = func(method string) error {
			if strings.HasSuffix(method, "Encrypt") {
				return status.Error(codes.Internal, "nothing is encrypted any more")
			}
			return nil
		}
	})
	k, err := OpenForeign(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Decrypt(t.Context(), wrapped, nil); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("it does not open: %v", err)
	}
	if _, err := k.Decrypt(t.Context(), wrapped[1:], nil); crypto.KindOf(err) != crypto.KindRejected {
		t.Errorf("a piece of it: %v", err)
	}
	for _, wrong := range []string{uri + "&service=KeyService", "plugin://p/k", "plugin://p/k?address=h:1&ca_file=/nowhere"} {
		if _, err := OpenForeign(t.Context(), wrong); crypto.KindOf(err) != crypto.KindNotConfigured {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestURIs(t *testing.T) {
	for uri, want := range map[string]location{
		"plugin://n/k?address=unix:/run/s":                  {name: "n", key: "k", address: "unix:/run/s", plain: true},
		"plugin://n/a/b?address=h:1&service=KeyService":     {name: "n", key: "a/b", address: "h:1", withContext: true},
		"plugin://n/k?address=localhost:1&tls=off":          {name: "n", key: "k", address: "localhost:1", plain: true},
		"plugin://n/k?address=h:1&ca_file=c&token_file=t":   {name: "n", key: "k", address: "h:1", authority: "c", tokenFile: "t"},
		"plugin://n/k?address=[::1]:1&tls=off&token_file=t": {name: "n", key: "k", address: "[::1]:1", plain: true, tokenFile: "t"},
	} {
		if got, err := parseURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
	for uri, want := range map[string]string{
		"plugin://":                                          "no key of a plug-in",
		"plugin://u:CANARY@n/k":                              "no user and password",
		"plugin://n":                                         "names no key",
		"plugin://n/k":                                       "address is required",
		"plugin://n/k?address=host":                          "address is required",
		"plugin://n/k?address=unix:run/s":                    "absolute path",
		"plugin://n/k?address=unix:/s&tls=off":               "have no meaning",
		"plugin://n/k?address=h:1&tls=off":                   "to the network",
		"plugin://n/k?address=127.0.0.1:1&tls=on":            "can only be off",
		"plugin://n/k?address=localhost:1&tls=off&ca_file=c": "contradict",
		"plugin://n/k?address=h:1&service=x":                 "service is",
		"plugin://n/k?address=h:1&token=x":                   "unknown parameter",
		"plugin://n/k?address=h:1&address=i:1":               "one value",
		"plugin://n/k?address=%zz":                           "can't be read",
	} {
		if err := Check(uri); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s: error %v, want one with %q", uri, err, want)
		}
	}
}
