package contract

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// page is a request to the codec server.
type page struct {
	method, path string // "": POST, /decode
	headers      map[string]string
	body         string
	payloads     []*commonpb.Payload // instead of body
}

type shown struct {
	code     int
	header   http.Header
	text     string
	payloads []*commonpb.Payload
}

func (r *rig) codecServer(t *testing.T, p page) shown {
	t.Helper()
	if p.method == "" {
		p.method = http.MethodPost
	}
	if p.path == "" {
		p.path = "/decode"
	}
	if p.payloads != nil {
		text, err := protojson.Marshal(list(p.payloads...))
		if err != nil {
			t.Fatal(err)
		}
		p.body = string(text)
	}
	q, err := http.NewRequestWithContext(t.Context(), p.method, "http://"+r.codec+p.path, strings.NewReader(p.body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	for name, value := range p.headers {
		q.Header.Set(name, value)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	s := shown{code: a.StatusCode, header: a.Header, text: string(text)}
	if a.StatusCode == http.StatusOK {
		l := new(commonpb.Payloads)
		if err := protojson.Unmarshal(text, l); err != nil {
			t.Fatalf("the answer is no list of payloads: %v: %s", err, text)
		}
		s.payloads = l.Payloads
	}
	return s
}

func in(namespace string, more ...string) map[string]string {
	h := map[string]string{"X-Namespace": namespace}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return h
}

func TestCodecServerAuthorizesItsCallers(t *testing.T) {
	t.Parallel()
	r := callers(t)
	clear := text("CANARY")
	sealed := signaled(t, r.signalAs(t, r.dial(t, byToken), wideToken, "own-1", clear))
	others := signaled(t, r.signalAs(t, r.dial(t, byToken), wideToken, "other", clear))
	own := "Bearer " + ownToken
	for name, c := range map[string]struct {
		headers map[string]string
		code    int
	}{
		"the namespace's caller": {in("own-1", "Authorization", own), 200},
		"nobody":                 {in("own-1"), 401},
		"a wrong token":          {in("own-1", "Authorization", "Bearer wrong"), 401},
		"another namespace":      {in("other", "Authorization", own), 403},
		"no namespace":           {map[string]string{"Authorization": own}, 400},
	} {
		for _, path := range []string{"/decode", "/encode", "/prefix/decode"} {
			s := r.codecServer(t, page{path: path, headers: c.headers, payloads: sealed})
			if s.code != c.code || s.code != 200 && strings.Contains(s.text, "CANARY") {
				t.Errorf("%s by %s: %d %s, want %d", path, name, s.code, s.text, c.code)
			}
		}
	}
	got := r.codecServer(t, page{headers: in("own-1", "Authorization", own), payloads: append(sealed, others...)})
	if len(got.payloads) != 2 {
		t.Fatalf("2 payloads became %d", len(got.payloads))
	}
	equal(t, "a payload of the namespace", got.payloads[0], clear)
	equal(t, "a payload of another namespace", got.payloads[1], others[0])
}

func TestCodecServerRefusesOtherPages(t *testing.T) {
	t.Parallel()
	r := plain(t)
	sealed := r.seal(t, "codec", text("CANARY"))
	for _, origin := range []string{"https://evil.example.com", "null", "https://ui.example.com.evil.com", "http://ui.example.com"} {
		s := r.codecServer(t, page{headers: in("codec", "Origin", origin), payloads: sealed})
		if s.code != http.StatusForbidden || s.header.Get("Access-Control-Allow-Origin") != "" ||
			strings.Contains(s.text, "CANARY") {
			t.Errorf("a page of %s got %d, allowed for %q", origin, s.code, s.header.Get("Access-Control-Allow-Origin"))
		}
	}
	good := in("codec", "Origin", "https://ui.example.com")
	s := r.codecServer(t, page{headers: good, payloads: sealed})
	if s.code != http.StatusOK || s.header.Get("Access-Control-Allow-Origin") != "https://ui.example.com" {
		t.Errorf("the Web UI got %d, allowed for %q", s.code, s.header.Get("Access-Control-Allow-Origin"))
	}
	s = r.codecServer(t, page{headers: good, body: "no JSON"})
	if s.code != http.StatusBadRequest || s.header.Get("Access-Control-Allow-Origin") != "https://ui.example.com" {
		t.Errorf(
			"a wrong request of the Web UI got %d, allowed for %q: it cannot read why",
			s.code,
			s.header.Get("Access-Control-Allow-Origin"),
		)
	}
	s = r.codecServer(
		t,
		page{
			method:  http.MethodOptions,
			headers: map[string]string{"Origin": "https://ui.example.com", "Access-Control-Request-Method": "POST"},
		},
	)
	if s.code >= 300 || !strings.Contains(strings.ToLower(s.header.Get("Access-Control-Allow-Headers")), "x-namespace") {
		t.Errorf("a preflight got %d %v", s.code, s.header)
	}
	// What a page can send without asking first is refused.
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", ""} {
		if s := r.codecServer(t, page{headers: in("codec", "Content-Type", kind), payloads: sealed}); s.code != http.StatusUnsupportedMediaType {
			t.Errorf("a body of type %q got %d", kind, s.code)
		}
	}
	if s := r.codecServer(t, page{method: http.MethodGet, headers: in("codec")}); s.code != http.StatusMethodNotAllowed {
		t.Errorf("GET got %d", s.code)
	}
}

func TestCodecServerGivesAsManyAsItGot(t *testing.T) {
	t.Parallel()
	r := plain(t)
	clear := text("CANARY")
	sealed := r.seal(t, "codec", clear)[0]
	broken := proto.CloneOf(sealed)
	broken.Data = broken.Data[:len(broken.Data)/2]
	mixed := []*commonpb.Payload{clear, sealed, broken, {}, {Data: []byte("x")}, sealed}
	got := r.codecServer(t, page{headers: in("codec"), payloads: mixed}).payloads
	want := []*commonpb.Payload{clear, clear, broken, {}, {Data: []byte("x")}, clear}
	if len(got) != len(want) {
		t.Fatalf("%d payloads became %d", len(want), len(got))
	}
	for i := range want {
		equal(t, "a decoded payload", got[i], want[i])
	}
	encoded := r.codecServer(t, page{path: "/encode", headers: in("codec"), payloads: mixed}).payloads
	if len(encoded) != len(mixed) {
		t.Fatalf("%d payloads became %d", len(mixed), len(encoded))
	}
	for i := range mixed {
		if proto.Equal(encoded[i], mixed[i]) {
			t.Errorf("payload %d was not encoded: %v", i, mixed[i])
		}
	}
	back := r.codecServer(t, page{headers: in("codec"), payloads: encoded}).payloads
	for i := range mixed { // one layer: what was sealed comes back sealed
		equal(t, "a payload, encoded and decoded", back[i], mixed[i])
	}
	if got := r.codecServer(t, page{headers: in("codec"), body: `{"payloads":[]}`}); got.code != 200 || len(got.payloads) != 0 {
		t.Errorf("an empty list got %d %s", got.code, got.text)
	}
}

// A codec server knows fewer facts of a payload than a call does. An unknown fact counts at its strictest.
func TestCodecServerObeysThePolicy(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	sealed := func(namespace, id string) *commonpb.Payload {
		return startedWith(t, r.startWorkflow(t, namespace, id, "W", text("CANARY")))
	}
	list := []*commonpb.Payload{
		sealed("readers", "open"),
		sealed("readers", "kept"),
		sealed("readers", "denied"),
		sealed("readers", "redacted"),
	}
	got := r.codecServer(t, page{headers: in("readers"), payloads: list}).payloads
	equal(t, "an open payload", got[0], text("CANARY"))
	equal(t, "a payload that is kept", got[1], list[1])
	equal(t, "a payload that is denied", got[2], list[2])
	if proto.Equal(got[3], list[3]) || bytes.Contains(got[3].Data, []byte("CANARY")) {
		t.Errorf("a redacted payload came as %v", got[3])
	}
	of := sealed("reading", "w")
	equal(
		t,
		"a payload whose workflow type is not known",
		r.codecServer(t, page{headers: in("reading"), payloads: []*commonpb.Payload{of}}).payloads[0],
		of,
	)
	if s := r.codecServer(t, page{path: "/encode", headers: in("guarded"), payloads: []*commonpb.Payload{text("CANARY")}}); s.code == 200 &&
		proto.Equal(s.payloads[0], text("CANARY")) {
		t.Error("an encoded payload stayed clear")
	}
}
