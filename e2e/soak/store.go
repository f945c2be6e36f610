package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// keyStore is a key store in a PostgreSQL server, which is killed and started again.
type keyStore struct {
	dir    string
	server *peers.Postgres
	binary string // of the proxy
	extra  string // what the config of a proxy says about it
}

// startKeyStore makes an empty key store.
func startKeyStore(ctx context.Context) (k *keyStore, err error) {
	k = new(keyStore)
	if k.binary, err = harness.BuildProxy(); err != nil {
		return nil, err
	}
	if k.dir, err = os.MkdirTemp("", "pg"); err != nil { // a socket lies in it, whose path has to be short
		return nil, err
	}
	if k.server, err = peers.StartPostgres(ctx, k.dir); err != nil {
		return k, err
	}
	url := k.server.URL()
	id, err := exec.CommandContext(ctx, k.binary, "keystore", "init", url).Output()
	if err != nil {
		return k, fmt.Errorf("keystore init: %w", err)
	}
	k.extra = fmt.Sprintf("key_store: {url: %q, id: %q}\n", url, strings.TrimSpace(string(id)))
	return k, nil
}

func (k *keyStore) stop() {
	if k.server != nil {
		k.server.Kill()
	}
	os.RemoveAll(k.dir)
}

// killed is a crash of the key store's database.
func (k *keyStore) killed(away time.Duration) fault {
	return fault{fmt.Sprintf("kill -9 of the key store, away for %s", away), func(ctx context.Context) error {
		k.server.Kill()
		wait(ctx, away)
		server, err := peers.StartPostgres(ctx, k.dir)
		if err == nil {
			k.server = server
		}
		return err
	}}
}

// complete checks that payloads were sealed by reference, and that each row to which the server holds a reference is there and unwraps.
func (k *keyStore) complete(ctx context.Context, s *soak) error {
	config := filepath.Join(s.replicas[0].dir, "proxy.yaml")
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, k.binary, append(args, "--config", config)...)
		cmd.Env = append(os.Environ(), s.proxyOptions().Env...)
		out, err := cmd.CombinedOutput()
		text := strings.TrimSpace(string(out))
		s.say("%s: %s", strings.Join(args[:2], " "), text[strings.LastIndex(text, "\n")+1:])
		return text, err
	}
	if text, err := run("keystore", "check"); err != nil {
		return fmt.Errorf("keystore check: %w: %s", err, text)
	}
	text, err := run("keystore", "recover", "--rate", "2000")
	if err != nil {
		return fmt.Errorf("keystore recover: %w: %s", err, text)
	}
	if strings.Contains(text, "0 data keys by reference") || !strings.Contains(text, " by reference, 0 without a row:") {
		return errors.New("key store: rows were lost, or nothing was sealed by reference")
	}
	return nil
}

// storeComplete is keyStore.complete where there is one.
func (s *soak) storeComplete(ctx context.Context) error {
	if s.store == nil {
		return nil
	}
	return s.store.complete(ctx, s)
}

// risen is risen, where as many connections to a key store may have come as a proxy keeps.
func (s *soak) risen(begin, end level) []string {
	const connections = 8 // each has a goroutine that watches it
	if s.store != nil {
		begin.goroutines, begin.fds = begin.goroutines+connections, begin.fds+connections
	}
	return risen(begin, end)
}
