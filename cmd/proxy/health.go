package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/config"
)

// healthCommand reports whether a running proxy is ready. A container image without a shell can run it as its
// health check.
func healthCommand() *cobra.Command {
	var s config.Flags
	var live bool
	var timeout time.Duration
	var output outputFormat
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a running proxy on this machine if it is ready",
		Long: `health asks the admin address of a running proxy for /readyz, and ends with 0 if calls should go there, with 1 if not:
for health checks of containers, in whose image there is nothing else to run.`,
		Example: `  temporal-seal health
  temporal-seal health --config config.yaml --live`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := adminAddress(&s)
			if err != nil {
				return err
			}
			// A proxy can be alive and not ready, while a key does not answer or while it drains.
			page := "/readyz"
			if live {
				page = "/healthz"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			text, err := ask(ctx, "http://"+address+page)
			if output.json() {
				return healthJSON(cmd.OutOrStdout(), text, err)
			}
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.File, "config", "", "config file of the proxy, for its admin address")
	f.StringVar(&s.Admin, "admin", "", "its admin address (default "+standard.Admin+")")
	f.BoolVar(&live, "live", false, "check that it is alive instead of that it is ready")
	f.DurationVar(&timeout, "timeout", 3*time.Second, "how long it may take to answer")
	output.flag(cmd)
	return cmd
}

// healthJSON prints the page, or why there is none, and ends with the same exit code as the text form.
func healthJSON(w io.Writer, text string, failed error) error {
	document := struct {
		OK    bool   `json:"ok"`
		Text  string `json:"text,omitempty"`
		Error string `json:"error,omitempty"`
	}{OK: failed == nil, Text: text}
	if failed != nil {
		document.Error = failed.Error()
	}
	if err := writeJSON(w, document); err != nil || failed == nil {
		return err
	}
	return exitCode(1)
}

// adminAddress returns the address at which a proxy with these settings answers on its own machine. A proxy
// that listens on all interfaces answers on loopback too.
func adminAddress(s *config.Flags) (string, error) {
	address := s.Admin
	if address == "" {
		c, err := s.Load()
		if err != nil {
			return "", err
		}
		address = c.Admin
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("the admin address %q is not host:port: %w", address, err)
	}
	// 0.0.0.0 and :: are addresses to listen on, and not to connect to.
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

// ask gets a page of the admin server, and returns its text. Any status other than 200 is an error with the
// text of the page, which names what is not ready.
func ask(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("the proxy does not answer: %w; is it running, and is this its admin address?", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return "", fmt.Errorf("the proxy's answer breaks off: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	return string(text), nil
}
