package codecserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

const (
	namespace = "clinic"
	page      = "https://ui.example.com"
	canary    = "CANARY-4711"
)

// rules let each token's subject have another verdict.
const rules = `package temporal

response contains {"action": "open"}

response contains {"action": input.caller.subject} if input.caller.subject in {"redact", "keep", "deny"}

request contains {"action": "deny", "reason": "not today"} if input.caller.subject == "nowrite"

request contains {"action": "seal", "fields": ["/secret"]} if input.caller.subject == "view"
`

// under is a codec server under test, with the keyring it seals with.
type under struct {
	*Server
	keys *keyring.Keyring
	url  string
	log  *lockedBuffer
	book *lockedBuffer

	counted atomic.Int64 // bytes that requests took
	entered atomic.Int64 // requests that entered and have not left
	full    atomic.Bool  // no request may enter
	room    atomic.Int64 // bytes that requests may take
}

func start(t testing.TB) *under {
	t.Helper()
	ctx := context.Background()
	u := &under{log: new(lockedBuffer), book: new(lockedBuffer)}
	u.room.Store(1 << 30)
	log := slog.New(slog.NewTextHandler(u.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	var err error
	if u.keys, err = keyring.New(ctx, keyring.Options{Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + file}}, Open: localkey.Open, Log: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.keys.Close)
	engine, err := policy.NewEngine(ctx, policy.Options{Shipped: []byte(rules), KeyRank: u.keys.Rank, DefaultKey: u.keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	rewriter, err := rewrite.New(rewrite.Options{Keys: u.keys, Policy: engine, Accounts: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	var tokens []auth.Token
	for _, subject := range []string{"open", "redact", "keep", "deny", "nowrite", "view"} {
		tokens = append(tokens, auth.Token{Subject: subject, Namespaces: []string{namespace, "other"}, Value: func() string { return "token-of-" + subject }})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	records := audit.New(audit.Options{Sink: sink{u.book}, Required: true, Wait: 10 * time.Second, Log: log})
	t.Cleanup(func() { _ = records.Close(ctx) })
	u.Server = New(Options{Net: l, Identify: auth.Tokens(Name, "authorization", tokens), Origins: []string{page}, Rewriter: rewriter, Audit: records,
		Enter: u.enter, RequestBytes: requestBytes,
		Rewritten: func(policy.Direction, *rewrite.Stats, time.Duration, trace.Span) {}, Failed: func(policy.Direction, error) {},
		Count:    func(string, string, rewrite.Outcomes, bool) {},
		Unopened: func(context.Context, *rewrite.Session) {}, Registry: prometheus.NewRegistry(), Log: log})
	u.url = "http://" + l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- u.Serve() }()
	t.Cleanup(func() {
		if err := u.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return u
}

// requestBytes bounds a body.
const requestBytes = 8 << 20

// enter counts, and refuses where the test says so.
func (u *under) enter(caller *policy.Caller, host string) (func(int64) error, rewrite.Memory, func(), error) {
	if caller == nil || host != "127.0.0.1" {
		return nil, nil, nil, fmt.Errorf("a caller %v at %q", caller, host)
	}
	if u.full.Load() {
		return nil, nil, nil, errors.New("no place")
	}
	u.entered.Add(1)
	take := func(n int64) error {
		if u.counted.Add(n) > u.room.Load() {
			return errors.New("no room")
		}
		return nil
	}
	return take, memory(take), func() { u.entered.Add(-1) }, nil
}

// memory counts like the bytes of a request.
type memory func(n int64) error

func (m memory) Charge(n int64) error { return m(n) }

type sink struct{ to *lockedBuffer }

func (s sink) Write(_ context.Context, lines [][]byte) (int, error) {
	for _, l := range lines {
		_, _ = s.to.Write(l)
	}
	return len(lines), nil
}
func (sink) Close() error { return nil }

type lockedBuffer struct {
	discard atomic.Bool // keep nothing

	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	if l.discard.Load() {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask posts a body as the Web UI does. Header pairs go over the usual ones; a value "-" leaves one out.
func (u *under) ask(t *testing.T, method, path, subject, body string, pairs ...string) answer {
	t.Helper()
	r, err := http.NewRequest(method, u.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	usual := map[string]string{"Content-Type": "application/json", "X-Namespace": namespace, "Origin": page, "Authorization": "Bearer token-of-" + subject}
	for i := 0; i < len(pairs); i += 2 {
		usual[pairs[i]] = pairs[i+1]
	}
	for name, value := range usual {
		if value != "-" {
			r.Header.Set(name, value)
		}
	}
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{got.StatusCode, got.Header, string(text)}
}

func toJSON(t *testing.T, list ...*commonpb.Payload) string {
	t.Helper()
	text, err := protojson.Marshal(&commonpb.Payloads{Payloads: list})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// payloads requests, and requires an answer of as many payloads.
func (u *under) payloads(t *testing.T, path, subject string, list ...*commonpb.Payload) []*commonpb.Payload {
	t.Helper()
	got := u.ask(t, http.MethodPost, path, subject, toJSON(t, list...))
	out := new(commonpb.Payloads)
	if got.status != http.StatusOK || protojson.Unmarshal([]byte(got.body), out) != nil || len(out.Payloads) != len(list) {
		t.Fatalf("%s as %s: %d %s", path, subject, got.status, got.body)
	}
	return out.Payloads
}

func jsonPayload(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}
}

func encoding(p *commonpb.Payload) string { return string(p.Metadata["encoding"]) }

func TestVerdicts(t *testing.T) {
	u := start(t)
	plain := []*commonpb.Payload{jsonPayload(`"` + canary + `"`), {}, {Metadata: map[string][]byte{"encoding": []byte("binary/null")}}}
	sealed := u.payloads(t, "/encode", "open", plain...)
	for i, p := range sealed {
		if encoding(p) != envelope.EncodingWhole {
			t.Errorf("payload %d came back as %v", i, p)
		}
	}
	mixed := append(sealed, plain[0])
	for subject, want := range map[string]func(i int, got *commonpb.Payload) bool{
		"open": func(i int, got *commonpb.Payload) bool { return proto.Equal(got, plain[i]) },
		"redact": func(_ int, got *commonpb.Payload) bool {
			return string(got.Data) == `"[sealed]"` && encoding(got) == "json/plain"
		},
		"keep": func(i int, got *commonpb.Payload) bool { return proto.Equal(got, sealed[i]) },
		"deny": func(i int, got *commonpb.Payload) bool { return proto.Equal(got, sealed[i]) },
	} {
		got := u.payloads(t, "/some/where/decode?preserveStorageRefs=true", subject, mixed...)
		for i := range plain {
			if !want(i, got[i]) {
				t.Errorf("%s: payload %d is %v", subject, i, got[i])
			}
		}
		if !proto.Equal(got[3], plain[0]) {
			t.Errorf("%s: what was never sealed came as %v", subject, got[3])
		}
	}
	if got := u.ask(t, http.MethodPost, "/decode", "open", toJSON(t, sealed...), "X-Namespace", "other"); got.status != http.StatusOK || strings.Contains(got.body, "binary/null") {
		t.Errorf("by the name of another namespace: %d %s", got.status, got.body)
	}
	if got := u.ask(t, http.MethodPost, "/decode", "open", `{}`); got.status != http.StatusOK || got.body != `{"payloads":[]}` {
		t.Errorf("nothing at all: %d %s", got.status, got.body)
	}
	for _, verdict := range []string{"opened", "redacted", "kept", "denied", "failed"} {
		if !strings.Contains(u.book.String(), `"verdict":"`+verdict+`"`) {
			t.Errorf("no record says %s: %s", verdict, u.book)
		}
	}
	if record := u.book.String(); strings.Contains(record, canary) || !strings.Contains(record, `"rpc":"codec-server/decode"`) {
		t.Errorf("the records: %s", record)
	}
	if strings.Contains(u.log.String(), canary) || strings.Contains(u.log.String(), "token-of-") {
		t.Errorf("the log: %s", u.log)
	}
}

// TestForms: views and texts open too, one layer at a time.
func TestForms(t *testing.T) {
	u := start(t)
	document := jsonPayload(`{"ward":"3","secret":"` + canary + `"}`)
	view := u.payloads(t, "/encode", "view", document)[0]
	if encoding(view) != envelope.EncodingView || strings.Contains(string(view.Data), canary) || !strings.Contains(string(view.Data), "ward") {
		t.Fatalf("a view is %v", view)
	}
	if got := u.payloads(t, "/decode", "open", view)[0]; !proto.Equal(got, document) {
		t.Errorf("a view opens to %v", got)
	}
	twice := u.payloads(t, "/encode", "open", view)[0]
	if once := u.payloads(t, "/decode", "open", twice)[0]; !proto.Equal(once, view) {
		t.Errorf("the second layer came off as well: %v", once)
	}
	sealer, _, err := u.keys.Sealer(context.Background(), namespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	text, err := sealer.Envelope().AppendText(nil, []byte("no <bed> for "+canary), new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	message := jsonPayload(`"query failed: ` + string(text) + `"`)
	if got := u.payloads(t, "/decode", "open", message)[0]; string(got.Data) != `"query failed: no <bed> for `+canary+`"` {
		t.Errorf("a text opens to %s", got.Data)
	}
	for _, subject := range []string{"keep", "redact", "deny"} {
		if got := u.payloads(t, "/decode", subject, message)[0]; !proto.Equal(got, message) {
			t.Errorf("a text as %s: %s", subject, got.Data)
		}
	}
	wrapped := u.payloads(t, "/encode", "open", message)[0]
	if got := u.payloads(t, "/decode", "open", wrapped)[0]; !proto.Equal(got, message) {
		t.Errorf("the text within came open as well: %s", got.Data)
	}
}

func TestRefusals(t *testing.T) {
	u := start(t)
	good := toJSON(t, jsonPayload(`"`+canary+`"`))
	many := `{"payloads":[` + strings.TrimSuffix(strings.Repeat("{},", maxPayloads+1), ",") + `]}`
	for name, tt := range map[string]struct {
		method, path, subject, body string
		pairs                       []string
		want                        int
		text                        string
	}{
		"another page":          {body: good, pairs: []string{"Origin", "https://evil.example.com"}, want: 403, text: "allowed_origins"},
		"no page in particular": {body: good, pairs: []string{"Origin", "null"}, want: 403},
		"a form":                {body: good, pairs: []string{"Content-Type", "text/plain"}, want: 415},
		"no token":              {body: good, pairs: []string{"Authorization", "-"}, want: 401, text: "requires a token"},
		"another token":         {body: good, pairs: []string{"Authorization", "Bearer x"}, want: 401},
		"no namespace":          {body: good, pairs: []string{"X-Namespace", "-"}, want: 400, text: "X-Namespace"},
		"an empty namespace":    {body: good, pairs: []string{"X-Namespace", ""}, want: 403, text: "default"},
		"a foreign namespace":   {body: good, pairs: []string{"X-Namespace", "payroll"}, want: 403, text: "does not reach"},
		"GET":                   {method: "GET", want: 405},
		"elsewhere":             {path: "/", body: good, want: 404},
		"download":              {path: "/download", body: good, want: 404, text: "external storage"},
		"no JSON":               {body: `"` + canary, want: 400},
		"other JSON":            {body: `{"payloads":"` + canary + `"}`, want: 400},
		"not base64":            {body: `{"payloads":[{"data":"` + canary + `~"}]}`, want: 400},
		"a null":                {body: `{"payloads":[null]}`, want: 400},
		"too many":              {body: many, want: 413, text: "1000"},
		"too long":              {body: `{"payloads":[{"data":"` + strings.Repeat("A", requestBytes) + `"}]}`, want: 413},
		"long namespace":        {body: good, pairs: []string{"X-Namespace", strings.Repeat("n", auth.MaxNamespace+1)}, want: 400, text: "bytes"},
		"denied":                {path: "/encode", subject: "nowrite", body: good, want: 403, text: "not today"},
		"lossy to encode":       {path: "/encode", body: `{"payloads":[{"fromTheFuture":1}]}`, want: 400},
	} {
		if tt.method == "" {
			tt.method = http.MethodPost
		}
		if tt.path == "" {
			tt.path = "/decode"
		}
		if tt.subject == "" {
			tt.subject = "open"
		}
		got := u.ask(t, tt.method, tt.path, tt.subject, tt.body, tt.pairs...)
		var doc map[string]string
		if got.status != tt.want || json.Unmarshal([]byte(got.body), &doc) != nil || !strings.HasPrefix(doc["message"], from) || !strings.Contains(got.body, tt.text) {
			t.Errorf("%s: %d %s, want %d with %q", name, got.status, got.body, tt.want, tt.text)
		}
		if strings.Contains(got.body, canary) || strings.Contains(got.body, "token-of") {
			t.Errorf("%s: the answer quotes what it was sent: %s", name, got.body)
		}
		allowed := got.header.Get("Access-Control-Allow-Origin")
		if foreign := name == "another page" || name == "no page in particular"; foreign != (allowed == "") || !foreign && allowed != page {
			t.Errorf("%s: may be read by %q", name, allowed)
		}
		if got.header.Get("Cache-Control") != "no-store" || !strings.Contains(got.header.Get("Vary"), "Origin") {
			t.Errorf("%s: headers %v", name, got.header)
		}
	}
	if log := u.log.String(); strings.Contains(log, canary) || strings.Contains(log, "token-of") {
		t.Errorf("the log: %s", log)
	}
	if got := u.ask(t, http.MethodPost, "/decode", "open", `{"payloads":[{"data":"MQ==","fromTheFuture":1}]}`); got.status != 200 {
		t.Errorf("a newer payload cannot be shown: %s", got.body)
	}
	if got := u.ask(t, http.MethodPost, "/decode", "open", good, "Origin", "-"); got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("the command line: %d %v", got.status, got.header)
	}
}

// TestPreflight asks as a browser does before it sends a token. It brings none itself.
func TestPreflight(t *testing.T) {
	u := start(t)
	ask := func(origin string) answer {
		return u.ask(t, http.MethodOptions, "/decode", "", "", "Authorization", "-", "X-Namespace", "-", "Content-Type", "-", "Origin", origin,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,authorization-extras,content-type,x-namespace", "Access-Control-Request-Private-Network", "true")
	}
	got := ask(page)
	if got.status != http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != page || got.header.Get("Access-Control-Allow-Private-Network") != "true" {
		t.Errorf("%d %v", got.status, got.header)
	}
	for _, header := range []string{"Content-Type", "X-Namespace", "Authorization", "Authorization-Extras"} {
		if !strings.Contains(got.header.Get("Access-Control-Allow-Headers"), header) {
			t.Errorf("%s may not be sent", header)
		}
	}
	if got := ask("https://evil.example.com"); got.status != http.StatusForbidden || got.header.Get("Access-Control-Allow-Headers") != "" {
		t.Errorf("another page: %d %v", got.status, got.header)
	}
}

// TestPanic: a fault ends one request, and its error does not say what it was about.
func TestPanic(t *testing.T) {
	u := start(t)
	identify := u.options.Identify
	u.options.Identify = func(auth.Credentials) (*auth.Identity, error) { panic(canary) }
	for range 3 {
		got := u.ask(t, http.MethodPost, "/decode", "open", `{}`)
		if got.status != http.StatusInternalServerError || strings.Contains(got.body, canary) || strings.Contains(u.log.String(), canary) {
			t.Errorf("%d %s; log: %s", got.status, got.body, u.log)
		}
	}
	if n := strings.Count(u.log.String(), "stack="); n != 1 {
		t.Errorf("%d lines with a stack, want one a minute: %s", n, u.log)
	}
	u.options.Identify = identify
	if got := u.ask(t, http.MethodPost, "/decode", "open", `{}`); got.status != http.StatusOK {
		t.Errorf("the request after it: %d %s", got.status, got.body)
	}
}
