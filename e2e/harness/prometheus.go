package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// ErrNoPrometheus is returned where there is no Prometheus on the PATH.
var ErrNoPrometheus = errors.New("no prometheus on this machine; Debian has it as the package prometheus")

// Prometheus is a running one.
type Prometheus struct {
	*peers.Process
	URL string
}

// StartPrometheus starts a Prometheus with a config, which is written into dir. It returns once the Prometheus is ready.
func StartPrometheus(ctx context.Context, dir, config string) (*Prometheus, error) {
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		return nil, ErrNoPrometheus
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String() // Prometheus cannot be told to choose a port
	_ = l.Close()
	log := NewLog()
	p := &Prometheus{URL: "http://" + address}
	p.Process, err = peers.Start("prometheus", exec.Command(bin, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn", "--enable-feature=exemplar-storage"), log)
	if err != nil {
		return nil, err
	}
	for range 400 {
		if answer, err := http.Get(p.URL + "/-/ready"); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case <-ctx.Done():
			p.Kill()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	p.Kill()
	return nil, fmt.Errorf("prometheus is not ready: %s", log)
}

// Ask puts the data of an answer of the HTTP API into v.
func (p *Prometheus) Ask(ctx context.Context, path string, query url.Values, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	var result struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &result); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if result.Status != "success" {
		return errors.New(result.Error)
	}
	return json.Unmarshal(result.Data, v)
}

// Sample is one series of an instant query.
type Sample struct {
	Metric map[string]string
}

// Query evaluates an expression now.
func (p *Prometheus) Query(ctx context.Context, expr string) ([]Sample, error) {
	var data struct{ Result []Sample }
	err := p.Ask(ctx, "/api/v1/query", url.Values{"query": {expr}}, &data)
	return data.Result, err
}
