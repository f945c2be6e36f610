package codecserver

import (
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// bodyFactor reads from docs/operations.md how many bytes may be allocated for each byte of memory that is counted.
func bodyFactor(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\| each byte of memory that is counted for a body of the codec server, .* \| (\d+) \|`).FindSubmatch(text)
	if found == nil {
		t.Fatal("the table has no row for the codec server")
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// meter counts the memory of one request.
type meter struct{ bytes, memory int64 }

// copies is how many bytes of memory a byte that is taken stands for.
const copies = 3

func (m *meter) enter(*policy.Caller, string) (func(int64) error, rewrite.Memory, func(), error) {
	take := func(n int64) error { m.bytes += copies * n; return nil }
	charge := memory(func(n int64) error { m.memory += max(n, 0); return nil })
	return take, charge, func() {}, nil
}

// FuzzBody posts arbitrary bodies. They are answered or refused without a fault, take no more memory than the table in
// docs/operations.md says, and what is sealed opens to the same.
func FuzzBody(f *testing.F) {
	bodySeeds(f)
	u := start(f)
	u.log.discard.Store(true)
	u.book.discard.Store(true)
	factor := bodyFactor(f)
	f.Fuzz(func(t *testing.T, body string, decode bool) {
		route := routeEncode
		if decode {
			route = routeDecode
		}
		status, answer := u.measured(t, route, body, factor)
		if status != http.StatusOK || decode {
			return
		}
		_, back := u.measured(t, routeDecode, answer, factor)
		want, got := new(commonpb.Payloads), new(commonpb.Payloads)
		if err := protojson.Unmarshal([]byte(body), want); err != nil {
			t.Fatalf("a body that is no list of payloads is sealed: %v", err)
		}
		if err := protojson.Unmarshal([]byte(back), got); err != nil {
			t.Fatalf("what was opened is no list of payloads: %v", err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("what was opened is %v, want %v", got, want)
		}
	})
}

// bodySeeds are what the Web UI sends, and what is small as text and large in memory.
func bodySeeds(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `{"payloads":[]}`, `{"payloads":[{}]}`, `[`, `{"payloads":null}`,
		`{"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"eyJhIjoxfQ=="}]}`,
		`{"payloads":[{"metadata":{"encoding":"YmluYXJ5L3NlYWxlZC52MQ=="},"data":"ZGFtYWdlZA=="}]}`,
		`{"payloads":[` + strings.Repeat(`{},`, 2000) + `{}]}`,
		`{"payloads":[` + strings.Repeat(`{"unknown":[{}]},`, 500) + `{}]}`,
		`{"payloads":[{"metadata":{` + strings.Repeat(`"k":"",`, 500) + `"a":""}}]}`,
		strings.Repeat(`{"payloads":[`, 2000), strings.Repeat(`[`, 20_000),
		`{"payloads":[{"data":"` + strings.Repeat("AAAA", 5000) + `"}]}`,
		`{"payloads":[{"data":"` + strings.Repeat(`\u0041`, 4000) + `"}]}`,
	} {
		f.Add(body, true)
		f.Add(body, false)
	}
}

// measured posts a body, and fails if that takes more memory than may be.
func (u *under) measured(t *testing.T, route, body string, factor int64) (status int, answer string) {
	t.Helper()
	m := new(meter)
	u.options.Enter = m.enter
	r := httptest.NewRequest(http.MethodPost, route, strings.NewReader(body))
	for name, value := range map[string]string{
		"Content-Type": "application/json", "X-Namespace": namespace, "Authorization": "Bearer token-of-open"} {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	u.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	const constant = 2 << 20 // pools that were collected, a line of the log
	took := int64(after.TotalAlloc - before.TotalAlloc)
	if most := factor*(m.bytes+m.memory) + constant; took > most {
		t.Errorf("%s: %d bytes are allocated for a body of %d bytes and %d that are counted; at most %d may be", route, took, len(body), m.bytes+m.memory, most)
	}
	if w.Code == http.StatusInternalServerError {
		t.Fatalf("%s: %s", route, w.Body)
	}
	return w.Code, w.Body.String()
}
