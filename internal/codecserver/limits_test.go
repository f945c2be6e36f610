package codecserver

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// post sends a body that may never end, and returns the status.
func (u *under) post(t *testing.T, subject string, body io.Reader) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url+"/decode", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Namespace", namespace)
	r.Header.Set("Authorization", "Bearer token-of-"+subject)
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = got.Body.Close()
	return got.StatusCode
}

// endless is the beginning of a body of which no more comes. It breaks off after 5 seconds: a server that waits for more
// fails the test then, where the client would wait for its body forever.
func endless(t *testing.T, text string) io.Reader {
	more, w := io.Pipe()
	end := time.AfterFunc(5*time.Second, func() { _ = w.CloseWithError(io.ErrUnexpectedEOF) })
	t.Cleanup(func() { end.Stop(); _ = w.Close() })
	return io.MultiReader(strings.NewReader(text), more)
}

// TestBodiesCount: a request has a place before its body is read, the body counts as it arrives, and both end with the answer.
func TestBodiesCount(t *testing.T) {
	u := start(t)
	u.bodyTime = 300 * time.Millisecond
	if got := u.post(t, "nobody", endless(t, "")); got != http.StatusUnauthorized || u.counted.Load() != 0 {
		t.Errorf("a caller without a token: %d, %d bytes", got, u.counted.Load())
	}
	u.full.Store(true)
	if got := u.post(t, "open", endless(t, "")); got != http.StatusServiceUnavailable || u.counted.Load() != 0 {
		t.Errorf("without a place: %d, %d bytes", got, u.counted.Load())
	}
	u.full.Store(false)

	body := `{"payloads":[{"data":"` + strings.Repeat("AAAA", 250_000) + `"}]}`
	if got := u.post(t, "open", strings.NewReader(body)); got != http.StatusOK {
		t.Fatal(got)
	}
	if n := u.counted.Swap(0); n < bodyCost*1_000_000 || n > bodyCost*2_500_000 {
		t.Errorf("a body of a million bytes counts %d", n)
	}
	u.room.Store(100_000)
	if got := u.post(t, "open", endless(t, body)); got != http.StatusServiceUnavailable || u.counted.Load() > 300_000 {
		t.Errorf("without room for the body: %d, %d bytes", got, u.counted.Load())
	}
	u.allLeave(t)
}

// allLeave waits until each request that entered has left.
func (u *under) allLeave(t *testing.T) {
	t.Helper()
	for range 500 {
		if u.entered.Load() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d requests have not left", u.entered.Load())
}

// TestElementsCount: what is small as text and large in memory counts as it is in memory, and has a bound.
func TestElementsCount(t *testing.T) {
	u := start(t)
	list := func(n int, each string) io.Reader {
		return strings.NewReader(`{"payloads":[` + strings.Repeat(each+",", n-1) + each + `]}`)
	}
	if got := u.post(t, "open", list(maxPayloads, `{}`)); got != http.StatusOK {
		t.Fatal(got)
	}
	if n := u.counted.Swap(0); n < maxPayloads*elementCost {
		t.Errorf("%d payloads without content count %d bytes", maxPayloads, n)
	}
	for _, each := range []string{`{}`, `{"unknown":[{}]}`, `{"metadata":{"a":"","b":""}}`} {
		if got := u.post(t, "open", list(maxElements, each)); got != http.StatusRequestEntityTooLarge {
			t.Errorf("%d times %s: %d", maxElements, each, got)
		}
		if n := u.counted.Swap(0); n > 2*bodyCost*requestBytes+1000*elementCost {
			t.Errorf("%d times %s: counted %d", maxElements, each, n)
		}
	}
	if got := u.post(t, "open", list(10*maxElements, `{}`)); got != http.StatusRequestEntityTooLarge {
		t.Error(got)
	}
	if n := u.counted.Swap(0); n > 3*bodyCost*2*maxElements {
		t.Errorf("a body with ten times as many elements as may be counts %d bytes, so it was read further than it had to be", n)
	}
}

// TestABodyThatStopsEnds: memory and a place are not kept for a body that does not arrive.
func TestABodyThatStopsEnds(t *testing.T) {
	u := start(t)
	u.bodyTime = 50 * time.Millisecond
	if got := u.post(t, "open", endless(t, `{"payloads":[`)); got != http.StatusBadRequest {
		t.Errorf("a body that stops: %d", got)
	}
	u.allLeave(t)
}

// TestWhatOpensCounts: what payloads open to counts before it takes memory, and beside it the answer that holds it.
func TestWhatOpensCounts(t *testing.T) {
	u := start(t)
	sealer, _, err := u.keys.Sealer(t.Context(), namespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	const size = 2_000_000
	plain, err := proto.Marshal(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/plain")},
		Data: bytes.Repeat([]byte("0123456789abcdef0123456789abcdef"), size/32)})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.AppendPayload(nil, plain, true, new(envelope.Nonces))
	if err != nil {
		t.Fatal(err)
	}
	payload := new(commonpb.Payload)
	if err := proto.Unmarshal(sealed, payload); err != nil {
		t.Fatal(err)
	}
	body, err := protojson.Marshal(&commonpb.Payloads{Payloads: []*commonpb.Payload{payload}})
	if err != nil {
		t.Fatal(err)
	}
	if got := u.post(t, "open", bytes.NewReader(body)); got != http.StatusOK {
		t.Fatal(got)
	}
	if n := u.counted.Swap(0); n < 3*size {
		t.Errorf("a body of %d bytes that opens to %d counts %d", len(body), size, n)
	}
	u.room.Store(size)
	if got := u.post(t, "open", bytes.NewReader(body)); got != http.StatusServiceUnavailable {
		t.Errorf("without room for what it opens to: %d", got)
	}
	u.allLeave(t)
}
