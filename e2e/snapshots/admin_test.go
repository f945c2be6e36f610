package snapshots

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// endpoints of the admin listener, in every state of the proxy.
var endpoints = []string{"/healthz", "/readyz", "/keys", "/candidate", "/survey", "/status", "/explain", "/metrics", "/nothing", "/"}

// takeAdmin asks for each page while the proxy starts, serves, and drains.
func takeAdmin(t *testing.T) []string {
	u := startUpstream(t)
	for _, route := range productSource(t).routes {
		if _, path, _ := strings.Cut(route, " "); !slices.Contains(endpoints, strings.TrimSuffix(path, "{$}")) {
			t.Errorf("the source has the endpoint %s that this test does not ask for: add it to endpoints", route)
		}
	}
	var lines []string
	admin, starting := startingProxy(t)
	lines = append(lines, pages(t, admin, "starting")...)
	starting.Kill()

	codec := freeAddress(t)
	proxy, _ := start(t, harness.ProxyOptions{Upstream: u.address, Policy: policy, Candidate: candidate,
		Extra: fmt.Sprintf("codec_server: {address: %q}\ndrain: {delay: 20s}\n", codec)})
	lines = append(lines, pages(t, proxy.Admin, "serving")...)
	for _, path := range endpoints {
		lines = append(lines, answer(t, http.MethodPost, "admin", proxy.Admin, path, "serving", nil, ""))
	}
	lines = append(lines, answer(t, http.MethodGet, "admin", proxy.Admin, "/metrics", "serving, OpenMetrics asked for",
		map[string]string{"Accept": "application/openmetrics-text;version=1.0.0"}, ""))
	for _, r := range codecRequests {
		lines = append(lines, r.send(t, codec))
	}
	if err := syscall.Kill(proxy.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	untilDraining(t, proxy)
	lines = append(lines, pages(t, proxy.Admin, "draining")...)
	slices.Sort(lines)
	return lines
}

// startingProxy starts a proxy whose upstream does not answer, so that it goes on starting.
func startingProxy(t *testing.T) (admin string, process *peers.Process) {
	t.Helper()
	p := newProgram(t)
	admin = freeAddress(t)
	process, err := peers.Start("proxy", p.command(t.Context(), "serve", "--listen", "127.0.0.1:0", "--admin", admin,
		"--upstream", freeAddress(t), "--key", "local:seal.key", "--start-timeout", "1m"), harness.NewLog())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	until(t, "the keys are open", func() bool {
		a, err := http.Get("http://" + admin + "/keys")
		if err != nil {
			return false
		}
		return a.Body.Close() == nil && a.StatusCode == http.StatusOK
	})
	return admin, process
}

func pages(t *testing.T, address, state string) []string {
	t.Helper()
	var lines []string
	for _, path := range endpoints {
		lines = append(lines, answer(t, http.MethodGet, "admin", address, path, state, nil, ""))
	}
	return lines
}

// codecRequest is a request to the codec server.
type codecRequest struct {
	method, path string
	what         string // what is special about it
	headers      map[string]string
	body         string
}

const encodeBody = `{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"MQ=="}]}`

func inNamespace(more ...string) map[string]string {
	h := map[string]string{"Content-Type": "application/json", "X-Namespace": "default"}
	for i := 0; i < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return h
}

var codecRequests = []codecRequest{
	{"POST", "/encode", "good", inNamespace(), encodeBody},
	{"POST", "/any/prefix/encode", "good", inNamespace(), encodeBody},
	{"POST", "/decode", "good", inNamespace(), encodeBody},
	{"POST", "/decode", "from a page of an allowed origin", inNamespace("Origin", "http://localhost:8233"), encodeBody},
	{"POST", "/decode", "from a page of another origin", inNamespace("Origin", "http://evil.example.com"), encodeBody},
	{"OPTIONS", "/decode", "preflight of an allowed origin", map[string]string{"Origin": "http://localhost:8233",
		"Access-Control-Request-Method": "POST"}, ""},
	{"OPTIONS", "/decode", "preflight of another origin", map[string]string{"Origin": "http://evil.example.com",
		"Access-Control-Request-Method": "POST"}, ""},
	{"POST", "/decode", "without X-Namespace", map[string]string{"Content-Type": "application/json"}, encodeBody},
	{"POST", "/decode", "another content type", map[string]string{"Content-Type": "text/plain",
		"X-Namespace": "default"}, encodeBody},
	{"POST", "/decode", "a body that is not JSON", inNamespace(), "{"},
	{"GET", "/decode", "", inNamespace(), ""},
	{"POST", "/download", "good", inNamespace(), encodeBody},
	{"POST", "/nothing", "", inNamespace(), encodeBody},
}

func (r codecRequest) send(t *testing.T, address string) string {
	t.Helper()
	return answer(t, r.method, "codec_server", address, r.path, r.what, r.headers, r.body)
}

var version = regexp.MustCompile(`version=[0-9.]+`)

// answer makes a request, and puts status and content type of the answer in a line.
func answer(t *testing.T, method, who, address, path, what string, headers map[string]string, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	a, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		t.Fatal(err)
	}
	about := fmt.Sprintf("%s: %s %s", who, method, path)
	if what != "" {
		about += " (" + what + ")"
	}
	kind := a.Header.Get("Content-Type")
	if kind == "" {
		kind = "no content type"
	}
	return fmt.Sprintf("%s: %d, %s", about, a.StatusCode, version.ReplaceAllString(kind, "version=*"))
}
