package erasure

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.temporal.io/sdk/client"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// holding lists the files below a directory in which one of the keys stands. A server may remove files meanwhile.
func holding(dir string, keys [][]byte) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreRemoved(err)
		}
		data, err := os.ReadFile(path)
		for _, key := range keys {
			if bytes.Contains(data, key) {
				files = append(files, path)
				break
			}
		}
		return ignoreRemoved(err)
	})
	return files, err
}

func ignoreRemoved(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// none is an error if a key is found below a directory, or the other ones are not: then the search would find nothing.
func none(dir string, erased, others [][]byte) error {
	found, err := holding(dir, erased)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("it is in %v", found)
	}
	if err != nil || others == nil {
		return err
	}
	if found, err = holding(dir, others); err == nil && len(found) == 0 {
		err = errors.New("keys that are there are not found either")
	}
	return err
}

// onDisk looks for the wrapped keys of the erased patient in all that the store has. before are those of all patients.
func (c *clinic) onDisk(before [][]byte) {
	c.Helper()
	others := c.db.wrapped(c)
	var erased [][]byte
	for _, key := range before {
		if !slices.ContainsFunc(others, func(other []byte) bool { return bytes.Equal(key, other) }) {
			erased = append(erased, key)
		}
	}
	if len(erased) == 0 || len(others) == 0 {
		c.Fatalf("%d wrapped keys before the erasure, %d now", len(before), len(others))
	}
	switch db := c.db.(type) {
	case *file:
		var err error
		c.while(func() { err = none(db.dir, erased, others) })
		c.is("bytes", "the wrapped key is in no file", err)
		c.sqliteOnDisk()
	case *server:
		db.sql(c, "VACUUM FULL temporal_seal_subject_keys", "CHECKPOINT")
		c.is("bytes", "the wrapped key is in no table's file after VACUUM FULL and CHECKPOINT", none(filepath.Join(db.files(), "base"), erased, others))
		db.sql(c, "ALTER SYSTEM SET wal_recycle = off", "SELECT pg_reload_conf()")
		c.eventually("the write-ahead log from before the erasure ends", func() error {
			db.sql(c, "SELECT pg_switch_wal()", "CHECKPOINT")
			return none(filepath.Join(db.files(), "pg_wal"), erased, nil)
		})
		c.is("bytes", "nor in any file at all, once the write-ahead log from before the erasure has ended", none(db.files(), erased, others))
	case *table:
		c.is("bytes", "the wrapped key is in no item", has(db.rows(c), erased, others))
	}
}

// sqliteOnDisk has a proxy with a key store in SQLite seal for two patients and kills it, so that the write-ahead log stays, and erases one.
func (c *clinic) sqliteOnDisk() {
	c.Helper()
	dir := filepath.Join(c.dir, "killed")
	c.ok(os.Mkdir(dir, 0o700))
	store := "sqlite:" + filepath.Join(dir, "keys.db")
	id, err := exec.Command(c.bin, "keystore", "init", store).Output()
	c.ok(err)
	p, err := harness.StartProxy(c.Context(), harness.ProxyOptions{Dir: dir, Upstream: c.server.Address, Policy: policy,
		Keys:  []harness.KeyOption{{Name: "phi", Active: "local:" + filepath.Join(dir, "phi.key")}},
		Extra: fmt.Sprintf("key_store: {url: %q, id: %q}\n", store, strings.TrimSpace(string(id)))})
	c.ok(err)
	c.Cleanup(func() { _ = p.Stop() })
	sdk := c.dial(p.Address)
	for _, patient := range []string{"first", "second"} {
		_, err := sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: "killed-" + patient, TaskQueue: "nobody"}, "Stay", record{PatientID: patient})
		c.ok(err)
	}
	p.Kill()
	// A command that opens the store moves the log into the file, so the store is put back as the proxy has left it.
	files := map[string][]byte{}
	for _, name := range []string{"keys.db", "keys.db-wal"} {
		files[name], err = os.ReadFile(filepath.Join(dir, name))
		c.ok(err)
	}
	erased, others := [][]byte{c.sqliteKey(p, "first")}, [][]byte{c.sqliteKey(p, "second")}
	for name, content := range files {
		c.ok(os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	if bytes.Contains(files["keys.db"], erased[0]) || !bytes.Contains(files["keys.db-wal"], erased[0]) {
		c.Error("the wrapped key is not in the write-ahead log alone")
	}
	_, err = c.runAs(p.Config, "first\n", c.of("erase", "request 1", "--wait", "1s")...)
	if err != nil && strings.Contains(err.Error(), "1 replica not confirmed") { // it was killed
		err = nil
	}
	c.is("bytes", "the wrapped key was in the write-ahead log alone, and is in no file", errors.Join(err, none(dir, erased, others)))
}

// sqliteKey returns the start of the wrapped key in a patient's row. There, the key's id follows the tag,
// of which the command prints the start, and the id of the wrap key and the wrapped key follow that.
func (c *clinic) sqliteKey(p *harness.Proxy, patient string) []byte {
	c.Helper()
	shown, err := c.runAs(p.Config, patient+"\n", "subjects", "show", "--namespace", c.namespace, "--subject-file", "-")
	c.ok(err)
	ids := regexp.MustCompile(`tag ([0-9a-f]{16})|generation 1: ([0-9a-f]{32})`).FindAllStringSubmatch(shown, -1)
	if len(ids) != 2 {
		c.Fatalf("subjects show printed %q", shown)
	}
	tag, err := hex.DecodeString(ids[0][1])
	c.ok(err)
	id, err := hex.DecodeString(ids[1][2])
	c.ok(err)
	file, err := os.ReadFile(filepath.Join(filepath.Dir(p.Config), "keys.db"))
	c.ok(err)
	const tagSize, parentSize, some = 32, 16, 24 // bytes
	for at := 0; at+tagSize < len(file); at++ {
		if behind := file[at+tagSize:]; bytes.HasPrefix(file[at:], tag) && bytes.HasPrefix(behind, id) {
			start := len(id) + parentSize
			return bytes.Clone(behind[start : start+some])
		}
	}
	c.Fatal("the row is not in the file")
	return nil
}
