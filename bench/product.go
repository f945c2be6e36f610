package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// product is a running proxy of this repository, or of another build of it.
type product struct {
	*process
	address string
	admin   string // of its metrics
}

// productOptions are what a product is started with. Paths are absolute or relative to the working directory.
type productOptions struct {
	binary   string
	upstream string
	dir      string // for its files; it exists
	name     string // of those files
	rules    string // Rego rules beside the one that opens everything; empty: all payloads are sealed
	key      string // URI of the default key
	sink     string // address of the trace collector; empty: no tracing
	sampled  float64
	audit    bool // to a file in dir
	env      []string

	store, storeID string // of a key store, by reference to which it seals; empty: none

	namespaces string // folder of their policies; empty: none

	endpoints map[string]string // Nexus endpoints and the namespaces to which they lead
}

// newKey makes a local key file and returns its URI.
func newKey(ctx context.Context, binary, file string) (uri string, err error) {
	if out, err := exec.CommandContext(ctx, binary, "keys", "new", file).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s keys new: %w: %s", binary, err, out)
	}
	return "local:" + file, nil
}

// newStore makes a key store in an SQLite file and returns its URL and id.
func newStore(ctx context.Context, binary, file string) (url, id string, err error) {
	url = "sqlite:" + file
	out, err := exec.CommandContext(ctx, binary, "keystore", "init", url).Output()
	if err != nil {
		return "", "", fmt.Errorf("%s keystore init: %w", binary, err)
	}
	return url, strings.TrimSpace(string(out)), nil
}

func startProduct(ctx context.Context, o productOptions) (*product, error) {
	policy := filepath.Join(o.dir, o.name+".rego")
	text := "package temporal\n\nresponse contains {\"action\": \"open\"}\n\n" + o.rules + "\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := []string{"serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", o.upstream,
		"--policy", policy, "--log-format", "json"}
	settings := map[string]any{}
	if o.store == "" {
		args = append(args, "--key", o.key)
	} else {
		settings["key_store"] = map[string]any{"url": o.store, "id": o.storeID}
		settings["keys"] = []any{map[string]any{"name": "default", "active": o.key, "envelope": "reference"}}
	}
	if o.audit {
		settings["audit"] = map[string]any{"file": filepath.Join(o.dir, o.name+".audit.jsonl")}
	}
	if o.namespaces != "" {
		settings["policy"] = map[string]any{"namespaces": o.namespaces}
	}
	if len(o.endpoints) > 0 {
		settings["nexus_endpoints"] = o.endpoints
	}
	if len(settings) > 0 {
		config := filepath.Join(o.dir, o.name+".yaml")
		b, err := json.Marshal(settings) // JSON is YAML
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(config, b, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", config)
	}
	env := o.env
	if o.sink != "" {
		env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+o.sink, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
			"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG="+strconv.FormatFloat(o.sampled, 'g', -1, 64))
	}
	p, addresses, err := startProcess(ctx, servingLine, o.binary, env, args...)
	if err != nil {
		return nil, err
	}
	address, admin, _ := strings.Cut(addresses, " ")
	return &product{process: p, address: address, admin: admin}, nil
}

// servingLine returns the address and the admin address from the product's log line, with a space between.
func servingLine(line string) string {
	var entry struct{ Msg, Listen, Admin string }
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "serving" {
		return ""
	}
	return entry.Listen + " " + entry.Admin
}
