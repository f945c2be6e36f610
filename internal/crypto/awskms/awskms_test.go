package awskms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awsclient"
)

const (
	account = "111122223333"
	keyID   = "1234abcd-12ab-34cd-56ef-1234567890ab"
	keyARN  = "arn:aws:kms:eu-central-1:" + account + ":key/" + keyID
	roleARN = "arn:aws:iam::444455556666:role/tenant-a"
)

var kc = crypto.KeyContext{Namespace: "clinic-prod", Key: "phi"}

// service answers the KMS operations that are used here, in the JSON 1.1 protocol of AWS's API reference.
type service struct {
	url string

	mu      sync.Mutex
	state   string
	answers map[string]answer // by operation, in place of the normal one
	calls   map[string][]request
	signers []string // the access keys of calls of KMS
	assumed []string // the forms that STS received

	connections atomic.Int32
}

type answer struct {
	status int
	code   string
	body   string
}

type request struct {
	KeyId, KeySpec    string
	CiphertextBlob    []byte
	Plaintext         []byte
	EncryptionContext map[string]string
}

func start(t *testing.T) *service {
	t.Helper()
	environment(t)
	return serve(t)
}

func serve(t *testing.T) *service {
	t.Helper()
	s := &service{state: "Enabled", answers: map[string]answer{}, calls: map[string][]request{}}
	server := httptest.NewUnstartedServer(s)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.connections.Add(1)
		case http.StateClosed:
			s.connections.Add(-1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func environment(t *testing.T) {
	t.Helper()
	// Nothing of the machine's own AWS set-up has a say.
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AWS_SESSION_TOKEN": "",
		"AWS_REGION": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_KMS": ""} {
		t.Setenv(k, v)
	}
}

func (s *service) uri(key string) string {
	return "awskms://" + key + "?region=eu-central-1&endpoint=" + s.url
}

func (s *service) answer(op string, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[op] = a
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	role := strings.Contains(string(body), "Action=AssumeRole")
	if role {
		op = "AssumeRole"
	}
	var req request
	_ = json.Unmarshal(body, &req) // STS speaks another protocol
	s.mu.Lock()
	s.calls[op] = append(s.calls[op], req)
	if role {
		s.assumed = append(s.assumed, string(body))
	} else {
		_, signer, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		signer, _, _ = strings.Cut(signer, "/")
		s.signers = append(s.signers, signer)
	}
	a, scripted := s.answers[op]
	state := s.state
	s.mu.Unlock()
	switch {
	case scripted && a.status == 0:
		<-r.Context().Done()
		return
	case scripted:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(a.status)
		if a.body == "" && a.code != "" {
			a.body = fmt.Sprintf(`{"__type":%q,"message":"said the service"}`, a.code)
		}
		io.WriteString(w, a.body)
		return
	}
	reply := map[string]any{}
	switch op {
	case "DescribeKey":
		reply["KeyMetadata"] = map[string]any{"Arn": keyARN, "KeyId": keyID, "AWSAccountId": account, "KeyState": state,
			"KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT"}
	case "GenerateDataKey":
		reply = map[string]any{"KeyId": keyARN, "Plaintext": bytes.Repeat([]byte{7}, 32), "CiphertextBlob": []byte("wrapped")}
	case "Encrypt":
		reply = map[string]any{"KeyId": keyARN, "CiphertextBlob": append([]byte("wrapped "), req.Plaintext...)}
	case "Decrypt":
		reply = map[string]any{"KeyId": keyARN, "Plaintext": bytes.Repeat([]byte{7}, 32)}
	}
	json.NewEncoder(w).Encode(reply)
}

func open(t *testing.T, uri string) crypto.Provider {
	t.Helper()
	p, err := Open(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGenerateAndUnwrap(t *testing.T) {
	s := start(t)
	p := open(t, s.uri("alias/temporal-phi"))
	plain, wrapped, err := p.GenerateDataKey(t.Context(), kc)
	if err != nil || len(plain) != 32 || string(wrapped) != "wrapped" {
		t.Fatalf("%d bytes, %q, error %v", len(plain), wrapped, err)
	}
	again, err := p.UnwrapDataKey(t.Context(), wrapped, kc)
	if err != nil || !bytes.Equal(again, plain) {
		t.Fatalf("unwrapped differs, error %v", err)
	}
	moved, err := p.(crypto.Wrapper).WrapDataKey(t.Context(), plain, kc)
	if err != nil || string(moved) != "wrapped "+string(plain) {
		t.Fatalf("wrapped: %q, error %v", moved, err)
	}
	want := map[string]string{"temporal-seal:namespace": "clinic-prod", "temporal-seal:key": "phi"}
	for _, op := range []string{"GenerateDataKey", "Decrypt", "Encrypt"} {
		for _, r := range s.calls[op] {
			if r.KeyId != keyARN || fmt.Sprint(r.EncryptionContext) != fmt.Sprint(want) {
				t.Errorf("%s asked for key %q with context %v; want the resolved ARN and %v", op, r.KeyId, r.EncryptionContext, want)
			}
		}
	}
	if r := s.calls["GenerateDataKey"][0]; r.KeySpec != "AES_256" {
		t.Errorf("key spec %q", r.KeySpec)
	}
	if r := s.calls["Decrypt"][0]; string(r.CiphertextBlob) != "wrapped" {
		t.Errorf("blob %q", r.CiphertextBlob)
	}
}

func TestReferenceNamesAccountAndKey(t *testing.T) {
	s := start(t)
	want := crypto.NewKEKRef("awskms", account+":"+keyID)
	for _, key := range []string{keyID, keyARN, "alias/temporal-phi", "arn:aws:kms:eu-central-1:" + account + ":alias/temporal-phi"} {
		if got := open(t, s.uri(key)).Ref(); got != want {
			t.Errorf("%s: reference %v, want %v", key, got, want)
		}
	}
	// A key that is named by its ARN needs no permission to describe it; replicas in other regions share the reference.
	s.answer("DescribeKey", answer{status: 400, code: "AccessDeniedException"})
	for _, region := range []string{"us-east-1", "eu-west-1"} {
		arn := "arn:aws:kms:" + region + ":" + account + ":key/mrk-1"
		if got := open(t, s.uri(arn)).Ref(); got != crypto.NewKEKRef("awskms", account+":mrk-1") {
			t.Errorf("%s: reference %v", arn, got)
		}
	}
	if _, err := Open(t.Context(), s.uri("alias/temporal-phi")); crypto.KindOf(err) != crypto.KindDenied {
		t.Errorf("an alias that can't be resolved: %v", err)
	}
}

func TestOpenRefusesUnusableKeys(t *testing.T) {
	s := start(t)
	for _, state := range []string{"Disabled", "PendingDeletion", "PendingReplicaDeletion", "PendingImport"} {
		s.state = state
		if _, err := Open(t.Context(), s.uri(keyID)); crypto.KindOf(err) != crypto.KindRevoked || !strings.Contains(err.Error(), state) {
			t.Errorf("state %s: %v", state, err)
		}
	}
	for body, want := range map[string]string{
		`{"KeyMetadata":{"Arn":"` + keyARN + `","KeyState":"Enabled","KeyUsage":"SIGN_VERIFY","KeySpec":"RSA_2048"}}`: "can't wrap data keys",
		`{}`: "describes no key",
		`{"KeyMetadata":{"Arn":"x","KeyState":"Enabled","KeyUsage":"ENCRYPT_DECRYPT","KeySpec":"SYMMETRIC_DEFAULT"}}`: "not the ARN",
	} {
		s.answer("DescribeKey", answer{status: 200, body: body})
		if _, err := Open(t.Context(), s.uri(keyID)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", body, err, want)
		}
	}
}

// kmsError is one entry of testdata/kms/errors.json: what AWS documents for GenerateDataKey and Decrypt, and for all of its
// services, and what it counts as. package crypto's failure table has the same list.
type kmsError struct {
	Code, State       string // State: what DescribeKey returns then
	Status            int
	Decrypt, Generate string
}

func kmsErrors(t *testing.T) (all []kmsError) {
	t.Helper()
	text, err := os.ReadFile("../../../testdata/kms/errors.json")
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil || len(all) == 0 {
		t.Fatalf("%d errors, error %v", len(all), err)
	}
	return all
}

func TestErrorTable(t *testing.T) {
	environment(t)
	for _, e := range kmsErrors(t) {
		t.Run(strings.TrimSuffix(e.Code+"/"+e.State, "/"), func(t *testing.T) {
			t.Parallel() // the SDK pauses between its attempts
			s := serve(t)
			p := open(t, s.uri(keyID))
			s.answer("Decrypt", answer{status: e.Status, code: e.Code})
			s.answer("GenerateDataKey", answer{status: e.Status, code: e.Code})
			switch e.State {
			case "":
			case "not told":
				s.answer("DescribeKey", answer{status: 400, code: "AccessDeniedException"})
			default:
				s.state = e.State
			}
			_, err := p.UnwrapDataKey(t.Context(), []byte("w"), kc)
			check(t, "Decrypt", err, kindNamed(t, e.Decrypt), e.Code)
			_, _, err = p.GenerateDataKey(t.Context(), kc)
			check(t, "GenerateDataKey", err, kindNamed(t, e.Generate), e.Code)
		})
	}
}

func kindNamed(t *testing.T, name string) crypto.Kind {
	t.Helper()
	for k := crypto.KindUnknown + 1; k <= crypto.KindDenied; k++ {
		if k.String() == name {
			return k
		}
	}
	t.Fatalf("%q is no kind", name)
	return 0
}

func check(t *testing.T, op string, err error, kind crypto.Kind, text string) {
	t.Helper()
	if crypto.KindOf(err) != kind || err == nil {
		t.Errorf("%s: kind %v of %v; want %v", op, crypto.KindOf(err), err, kind)
		return
	}
	if !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "awskms://") {
		t.Errorf("%s: the error names neither KMS's answer nor the key: %v", op, err)
	}
}

func TestNoAnswer(t *testing.T) {
	environment(t)
	for name, a := range map[string]answer{
		"hangs": {}, "an empty 500": {status: 500}, "a page of a proxy": {status: 502, body: "<html>Bad Gateway</html>"},
		"no JSON": {status: 200, body: "<html>hello</html>"}, "a redirect": {status: 302}, "a login page": {status: 403, body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			p := open(t, s.uri(keyID))
			s.answer("Decrypt", a)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			begin := time.Now()
			_, err := p.UnwrapDataKey(ctx, []byte("w"), kc)
			check(t, "Decrypt", err, crypto.KindUnavailable, "")
			if took := time.Since(begin); took > 4*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := serve(t)
		uri := strings.Replace(s.uri(keyID), s.url, "http://127.0.0.1:1", 1)
		_, err := Open(t.Context(), uri)
		check(t, "DescribeKey", err, crypto.KindUnavailable, "")
	})
}

// TestLookUpAdvises: a key that cannot be looked up comes with what to do.
func TestLookUpAdvises(t *testing.T) {
	environment(t)
	for code, want := range map[string]string{"NotFoundException": "or create it", "AccessDeniedException": "allow kms:DescribeKey"} {
		s := serve(t)
		s.answer("DescribeKey", answer{status: 400, code: code})
		if _, err := Open(t.Context(), s.uri("alias/gone")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", code, err, want)
		}
	}
	s := serve(t)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if _, err := Open(t.Context(), s.uri(keyID)); err == nil || !strings.Contains(err.Error(), "give the proxy AWS credentials") {
		t.Errorf("without credentials: %v", err)
	}
}

// TestSTSFailureSaysNothingAboutTheKey: STS refuses the role with AccessDenied too.
func TestSTSFailureSaysNothingAboutTheKey(t *testing.T) {
	s := start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::"+account+":role/r")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.url)
	s.answer("AssumeRole", answer{status: 403, body: `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>` +
		`<Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>`})
	_, err := Open(t.Context(), s.uri(keyID))
	check(t, "DescribeKey", err, crypto.KindUnavailable, "AccessDenied")
}

// TestContainerCredentialsSayNothingAboutTheKey: the endpoint of a container's credentials refuses with AccessDeniedException too.
func TestContainerCredentialsSayNothingAboutTheKey(t *testing.T) {
	s := start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"code": "AccessDeniedException", "message": "no pod identity"}`))
	}))
	t.Cleanup(endpoint.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.URL)
	_, err := Open(t.Context(), s.uri("alias/x"))
	check(t, "DescribeKey", err, crypto.KindUnavailable, "no pod identity")
}

// TestExternalKeyStores: KMS has one error for a key store that is disconnected and for an external key manager that refuses. Only
// the state of the key shows that it was taken away.
func TestExternalKeyStores(t *testing.T) {
	s := start(t)
	p := open(t, s.uri(keyID))
	for _, op := range []string{"GenerateDataKey", "Decrypt"} {
		s.answer(op, answer{status: 400, code: "KMSInvalidStateException"})
	}
	for state, want := range map[string]crypto.Kind{"Enabled": crypto.KindUnavailable, "Unavailable": crypto.KindUnavailable, "Disabled": crypto.KindRevoked} {
		s.mu.Lock()
		s.state = state
		s.mu.Unlock()
		_, _, sealErr := p.GenerateDataKey(t.Context(), kc)
		_, unwrapErr := p.UnwrapDataKey(t.Context(), []byte("wrapped"), kc)
		if crypto.KindOf(sealErr) != want || crypto.KindOf(unwrapErr) != want {
			t.Errorf("state %s: %v and %v, want kind %v", state, sealErr, unwrapErr, want)
		}
	}
}

const assumedRole = `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>AKIAOFTHEROLE</AccessKeyId>` +
	`<SecretAccessKey>a secret that is long enough for FIPS 140</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>` +
	`</AssumeRoleResult></AssumeRoleResponse>`

// TestRoles: a key of another account is used with a role that is assumed there, and a role that is refused says nothing about the key.
func TestRoles(t *testing.T) {
	s := start(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.url)
	s.answer("AssumeRole", answer{status: 200, body: assumedRole})
	uri := s.uri(keyID) + "&role_arn=" + roleARN + "&external_id=ours"
	open(t, uri)
	form, err := url.ParseQuery(s.assumed[0])
	if err != nil || form.Get("RoleArn") != roleARN || form.Get("ExternalId") != "ours" || form.Get("RoleSessionName") != "temporal-seal" {
		t.Errorf("the role was asked for with %v, error %v", form, err)
	}
	if !slices.Equal(s.signers, []string{"AKIAOFTHEROLE"}) {
		t.Errorf("KMS was called by %q", s.signers)
	}
	s.answer("AssumeRole", answer{status: 403, body: `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>` +
		`<Message>not authorized to perform sts:AssumeRole</Message></Error></ErrorResponse>`})
	_, err = Open(t.Context(), uri)
	check(t, "a role that is refused", err, crypto.KindUnavailable, "sts:AssumeRole")
}

// TestProfiles: a profile of the shared configuration has credentials and a region.
func TestProfiles(t *testing.T) {
	s := start(t)
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("[profile tenants]\nregion = eu-central-1\naws_access_key_id = AKIAOFTHEPROFILE\naws_secret_access_key = a-secret-that-is-long-enough-for-fips-140\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	open(t, "awskms://"+keyID+"?profile=tenants&endpoint="+s.url)
	if !slices.Equal(s.signers, []string{"AKIAOFTHEPROFILE"}) {
		t.Errorf("KMS was called by %q", s.signers)
	}
	if _, err := Open(t.Context(), "awskms://"+keyID+"?profile=nobody&endpoint="+s.url); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a profile that is not there: %v", err)
	}
}

// TestFIPS: the region's endpoint for FIPS 140 is called.
func TestFIPS(t *testing.T) {
	environment(t)
	cfg, err := awsclient.Load(t.Context(), awsclient.Place{Region: "us-east-1", FIPS: true})
	if err != nil {
		t.Fatal(err)
	}
	var called string
	client := kms.NewFromConfig(cfg, func(o *kms.Options) {
		o.HTTPClient = caller(func(r *http.Request) (*http.Response, error) {
			called = r.URL.Host
			return nil, errors.New("nothing is sent")
		})
	})
	_, _ = client.ListKeys(t.Context(), nil)
	if called != "kms-fips.us-east-1.amazonaws.com" {
		t.Errorf("%q was called", called)
	}
}

type caller func(*http.Request) (*http.Response, error)

func (c caller) Do(r *http.Request) (*http.Response, error) { return c(r) }

// TestReloadsShareConnections: a key that is opened again and again, as by reloads of the config, leaves no connections
// behind but those that are kept for all keys.
func TestReloadsShareConnections(t *testing.T) {
	const kept = 10 // at most, of one host: the SDK's default
	s := start(t)
	for range 3 * kept {
		open(t, s.uri(keyARN))
	}
	if n := s.connections.Load(); n > kept {
		t.Errorf("%d times the same key left %d connections open", 3*kept, n)
	}
}

func TestRetries(t *testing.T) {
	s := start(t)
	p := open(t, s.uri(keyID))
	s.answer("Decrypt", answer{status: 400, code: "ThrottlingException"})
	if _, err := p.UnwrapDataKey(t.Context(), []byte("w"), kc); err == nil {
		t.Fatal("no error")
	}
	if n := len(s.calls["Decrypt"]); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]location{
		"awskms://alias/a":                                      {key: "alias/a"},
		"awskms://alias/a?region=eu-central-1":                  {key: "alias/a", place: awsclient.Place{Region: "eu-central-1"}},
		"awskms://" + keyARN:                                    {key: keyARN, place: awsclient.Place{Region: "eu-central-1"}},
		"awskms://" + keyARN + "?region=us-east-1":              {key: keyARN, place: awsclient.Place{Region: "us-east-1"}},
		"awskms://k?endpoint=https://kms.example.com":           {key: "k", place: awsclient.Place{Endpoint: "https://kms.example.com"}},
		"awskms://k?endpoint=http://127.0.0.1:8080":             {key: "k", place: awsclient.Place{Endpoint: "http://127.0.0.1:8080"}},
		"awskms://k?endpoint=http://localhost:8080&region=x":    {key: "k", place: awsclient.Place{Region: "x", Endpoint: "http://localhost:8080"}},
		"awskms://k?endpoint=http%3A%2F%2F%5B%3A%3A1%5D%3A8080": {key: "k", place: awsclient.Place{Endpoint: "http://[::1]:8080"}},
		"awskms://k?profile=tenants&fips=on":                    {key: "k", place: awsclient.Place{Profile: "tenants", FIPS: true}},
		"awskms://k?fips=off&role_arn=" + roleARN + "&external_id=x/1": {key: "k",
			place: awsclient.Place{RoleARN: roleARN, ExternalID: "x/1"}},
	} {
		if got, err := parseURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
	for uri, want := range map[string]string{
		"local:x":                      "is not a KMS key",
		"awskms://":                    "is not a KMS key",
		"awskms://?region=x":           "is not a KMS key",
		"awskms://k?zone=x":            "unknown parameter",
		"awskms://k?region=a&region=b": "more than once",
		"awskms://k?region=%zz":        "cannot be read",
		"awskms://k?endpoint=http://kms.example.com":        "plain http",
		"awskms://k?endpoint=http://10.0.0.1:80":            "plain http",
		"awskms://k?endpoint=http://127.0.0.1.example.com":  "plain http",
		"awskms://k?endpoint=http://127.0.0.1@evil.example": "without user and password",
		"awskms://k?endpoint=ftp://127.0.0.1":               "write https",
		"awskms://k?endpoint=kms":                           "write https",
		"awskms://k?fips=yes":                               "fips is on or off",
		"awskms://k?fips=on&endpoint=https://kms":           "contradict each other",
		"awskms://k?role_arn=seal":                          "not the ARN of a role",
		"awskms://k?role_arn=arn:aws:iam::1:user/u":         "not the ARN of a role",
		"awskms://k?external_id=x":                          "role_arn, which is missing",
	} {
		if _, err := parseURI(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", uri, err, want)
		}
	}
}

func TestRegionIsNeeded(t *testing.T) {
	start(t)
	if _, err := Open(t.Context(), "awskms://"+keyID); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("error %v, want advice", err)
	}
}
