package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/x/handshake"
)

// TestScrapesAtOnce: a flood of scrapes is refused beyond a few, and keeps no probe out.
func TestScrapesAtOnce(t *testing.T) {
	registry := prometheus.NewRegistry()
	begun, end := make(chan struct{}, 2*scrapes), make(chan struct{})
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slow", Help: "Waits."}, func() float64 {
		begun <- struct{}{}
		<-end
		return 0
	}))
	a, err := newAdmin("127.0.0.1:0", &telemetry{log: slog.New(slog.DiscardHandler), registry: registry}, func(string, handshake.Cause) {})
	if err != nil {
		t.Fatal(err)
	}
	go a.serve()
	t.Cleanup(a.close)
	client := http.Client{Timeout: 10 * time.Second}
	get := func(path, header string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.net.Addr().String()+path, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("X-Filler", header)
		answer, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	done := make(chan int, scrapes)
	for range scrapes {
		go func() { done <- get("/metrics", "") }()
	}
	for range scrapes {
		<-begun
	}
	for path, want := range map[string]int{"/metrics": 503, "/healthz": 200, "/readyz": 503, "/keys": 503} {
		if got := get(path, ""); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	close(end)
	for range scrapes {
		if got := <-done; got != http.StatusOK {
			t.Errorf("a scrape: %d", got)
		}
	}
	if got := get("/healthz", strings.Repeat("x", 100<<10)); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("headers of 100 KiB: %d", got)
	}
}

// TestTextsInTurn: answers of /readyz and /keys are made a few at a time, others wait, and who leaves makes room.
func TestTextsInTurn(t *testing.T) {
	a, err := newAdmin("127.0.0.1:0", &telemetry{log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry()}, func(string, handshake.Cause) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	for path, turns := range map[string]chan struct{}{"/readyz": a.probing.places, "/keys": a.listing.places} {
		for range cap(turns) {
			turns <- struct{}{}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ask := func(ctx context.Context, to *httptest.ResponseRecorder) <-chan struct{} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				a.server.Handler.ServeHTTP(to, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
			}()
			return done
		}
		left, waits := httptest.NewRecorder(), httptest.NewRecorder()
		leaves, waiting := ask(ctx, left), ask(t.Context(), waits)
		select {
		case <-leaves:
			t.Errorf("%s: made beyond the bound", path)
		case <-waiting:
			t.Errorf("%s: made beyond the bound", path)
		case <-time.After(50 * time.Millisecond):
		}
		cancel()
		<-leaves
		<-turns
		if <-waiting; waits.Code != http.StatusServiceUnavailable || waits.Body.Len() == 0 { // the proxy has not started
			t.Errorf("%s: %d %q", path, waits.Code, waits.Body)
		}
		for len(turns) > 0 {
			<-turns
		}
	}
}

// TestTextsLeaveTimeToCalls: the place of a text stays empty for longer than the text took, also after a panic, and what is on
// its way to slow readers is bounded.
func TestTextsLeaveTimeToCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTurns(1, 3)
		text := func(http.Header, io.Writer) int {
			time.Sleep(time.Second)
			return http.StatusOK
		}
		ask := func(text func(http.Header, io.Writer) int) (code int) {
			defer func() { _ = recover() }() // as net/http does
			w := httptest.NewRecorder()
			u.answer(text)(w, httptest.NewRequest(http.MethodGet, "/", nil))
			return w.Code
		}
		began := time.Now()
		ask(func(http.Header, io.Writer) int {
			time.Sleep(time.Second)
			panic("a fault")
		})
		for range 2 {
			if code := ask(text); code != http.StatusOK {
				t.Errorf("answered with %d", code)
			}
		}
		if took := time.Since(began); took != 9*time.Second { // 1 + 3, 1 + 3, 1
			t.Errorf("three texts took %v", took)
		}
		u.places <- struct{}{}
		began = time.Now()
		if code := ask(text); code != http.StatusServiceUnavailable || time.Since(began) != textWait {
			t.Errorf("without a turn: %d after %v", code, time.Since(began))
		}
		<-u.places
		u.sending.Store(textBytes)
		long := func(_ http.Header, w io.Writer) int {
			fmt.Fprint(w, "text")
			return http.StatusOK
		}
		if code := ask(long); code != http.StatusServiceUnavailable {
			t.Errorf("beyond the bound: %d", code)
		}
		if n := u.sending.Load(); n != textBytes {
			t.Errorf("%d bytes are on their way", n)
		}
	})
}

// TestProbesDoNotWait: /readyz answers while every turn of the pages is taken.
func TestProbesDoNotWait(t *testing.T) {
	a, err := newAdmin("127.0.0.1:0", &telemetry{log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry()}, func(string, handshake.Cause) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	for range cap(a.making.places) {
		a.making.places <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w := httptest.NewRecorder()
	a.server.Handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil))
	if !strings.Contains(w.Body.String(), "not ready") { // the proxy has not started
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
