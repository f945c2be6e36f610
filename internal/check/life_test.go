package check_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"

	"github.com/temporal-seal/temporal-seal/internal/check"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

// counting is a frontend that counts workflows in one namespace, and refuses to in others.
type counting struct {
	workflowservice.UnimplementedWorkflowServiceServer
	query string
}

func (c *counting) CountWorkflowExecutions(_ context.Context, q *workflowservice.CountWorkflowExecutionsRequest) (*workflowservice.CountWorkflowExecutionsResponse, error) {
	c.query = q.Query
	if q.Namespace != "clinic" {
		return nil, fmt.Errorf("no namespace %s", q.Namespace)
	}
	return &workflowservice.CountWorkflowExecutionsResponse{Count: 3}, nil
}

// TestLife: workflows that run for longer than a key lives are counted, or a note says how to count them. Keys of the name that do not
// expire are an error.
func TestLife(t *testing.T) {
	frontend := new(counting)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(server, frontend)
	go server.Serve(l)
	defer server.Stop()
	f := folder{t, t.TempDir()}
	if err := localkey.Create(filepath.Join(f.dir, "seal.key"), time.Now()); err != nil {
		t.Fatal(err)
	}
	url := "sqlite:" + filepath.Join(f.dir, "keys.db")
	id, _, err := keystore.Init(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	f.write("config.yaml", fmt.Sprintf(`
listeners: [{address: 127.0.0.1:0, callers: {anonymous: {namespaces: [clinic, lab]}}}]
upstreams: [{address: %q}]
key_store: {url: %q, id: %q}
keys:
  - {name: default, active: "local:%s/seal.key", namespaces: [lab]}
  - {name: chat, active: "local:%[4]s/seal.key", envelope: reference, life: 30d, namespaces: [clinic]}
  - {name: letters, active: "local:%[4]s/seal.key", envelope: reference, namespaces: [clinic]}
  - {name: notes, active: "local:%[4]s/seal.key", envelope: reference, life: 90m, namespaces: [lab]}
`, l.Addr(), url, id, f.dir))
	run := func(connect bool) check.Result {
		return check.Run(t.Context(), check.Options{Flags: config.Flags{File: filepath.Join(f.dir, "config.yaml")}, Connect: connect, Timeout: time.Minute})
	}
	got := run(false)
	if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, "keys[1].life: a workflow that runs for longer than 30d fails") ||
		!strings.Contains(notes, "temporal workflow count --query \"ExecutionStatus = 'Running' AND StartTime < '20") || len(got.Errors) > 0 {
		t.Errorf("errors %q, notes %q", got.Errors, got.Notes)
	}
	if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, "keys[1].life: it is that of the default key in clinic: task tokens have no MAC there") ||
		strings.Contains(notes, "keys[3].life: it is that of the default key") {
		t.Errorf("notes %q; want one about the default key of clinic alone", got.Notes)
	}
	got = run(true)
	warnings := strings.Join(got.Warnings, "\n")
	for _, want := range []string{"keys[1].life: 3 workflows run in namespace clinic for longer than 30d", "keys[3].life: workflows of namespace lab that run for longer than 1h30m0s could not be counted"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("warnings %q lack %q", got.Warnings, want)
		}
	}
	if !strings.Contains(frontend.query, "StartTime < '20") {
		t.Errorf("the query is %s", frontend.query)
	}
	store, err := keystore.New(url, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []crypto.KeyRow{
		{ID: crypto.KeyID{1}, Context: crypto.KeyContext{Namespace: "clinic", Key: "chat"}},
		{ID: crypto.KeyID{2}, Context: crypto.KeyContext{Namespace: "clinic", Key: "letters"}, Life: &crypto.KeyLife{Read: time.Now(), SealFor: time.Hour, OpenFor: 2 * time.Hour}},
	} {
		row.KEK, row.Wrapped = crypto.KEKRef{1}, []byte("wrapped")
		if err := store.Put(t.Context(), row); err != nil {
			t.Fatal(err)
		}
	}
	store.Close()
	got = run(false)
	if want := `keys[2]: the key store has 1 data key of "letters" in the namespace clinic that expire`; !strings.Contains(strings.Join(got.Errors, "\n"), want) {
		t.Errorf("errors %q lack %q", got.Errors, want)
	}
	if got := strings.Join(got.Errors, "\n"); !strings.Contains(got, `keys[1].life: the key store has 1 data key of "chat" in the namespace clinic that do not expire`) {
		t.Errorf("errors %q", got)
	}
	config, err := os.ReadFile(filepath.Join(f.dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("config.yaml", strings.Replace(string(config), "{name: letters,", "{name: letters, endless: true,", 1))
	if got := run(false); strings.Contains(strings.Join(got.Errors, "\n"), "letters") {
		t.Errorf("the life was given up: errors %q", got.Errors)
	}
	change := func(statement string) {
		db, err := sql.Open("sqlite", filepath.Join(f.dir, "keys.db"))
		if err == nil {
			_, err = db.Exec(statement)
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(`UPDATE temporal_seal_keys SET expires = 1 WHERE key_name = 'letters'`)
	if got, want := strings.Join(run(false).Warnings, "\n"), `1 data key of "letters" in the namespace clinic should have been destroyed`; !strings.Contains(got, want) {
		t.Errorf("warnings %q lack %q", got, want)
	}
	change(`DROP TABLE temporal_seal_wraps`)
	got = run(false)
	for _, want := range []string{"keys[1].life: ", "the lives of data keys cannot be read"} {
		if !strings.Contains(strings.Join(got.Errors, "\n"), want) {
			t.Errorf("without a table: errors %q lack %q", got.Errors, want)
		}
	}
}
