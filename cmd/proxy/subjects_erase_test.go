package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// TestReplicasInCertificate: a certificate says that an erasure is in force only if every replica was asked and has confirmed.
func TestReplicasInCertificate(t *testing.T) {
	a, b := crypto.ReplicaRow{ID: "a", Seq: 7}, crypto.ReplicaRow{ID: "b", Seq: 6}
	for name, test := range map[string]struct {
		replicas, missing []crypto.ReplicaRow
		err               error
		want              string // in not_confirmed_by
	}{
		"none runs":          {},
		"all confirm":        {replicas: []crypto.ReplicaRow{a}},
		"one is silent":      {[]crypto.ReplicaRow{a, b}, []crypto.ReplicaRow{b}, nil, "b, silent"},
		"they were not read": {nil, nil, errors.New("no answer"), "replicas were not asked: no answer"},
		"read once":          {[]crypto.ReplicaRow{a, b}, []crypto.ReplicaRow{b}, errors.New("no answer"), "b, silent for 0s; it stops by itself after 0s replicas were not"},
	} {
		c := certificate{Missing: []string{notAsked("not yet")}}
		err := c.confirm(test.replicas, test.missing, test.err, time.Second)
		missing := strings.Join(c.Missing, " ")
		whole := test.want == ""
		if !strings.Contains(missing, test.want) || whole != (missing == "") || whole != (err == nil) || whole != (c.InForce == 1) || c.Missing == nil {
			t.Errorf("%s: %+v, error %v", name, c, err)
		}
		if n := len(test.replicas) - len(test.missing); len(c.Confirmed) != n {
			t.Errorf("%s: confirmed by %v", name, c.Confirmed)
		}
	}
}

// TestErasedKeyIsThere: an erasure whose second step failed, or a row that was restored, leaves a key that erase destroys.
func TestErasedKeyIsThere(t *testing.T) {
	row := crypto.SubjectRow{Erased: 1, ErasedAt: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC), Wrapped: []byte{1}}
	if got := generationOf(row).erased(); got != ", erased on 2026-11-29; its key is not destroyed yet: run erase again" {
		t.Errorf("printed is %q", got)
	}
	row.Wrapped = nil
	if got := generationOf(row).erased(); got != ", erased on 2026-11-29" {
		t.Errorf("printed is %q", got)
	}
	if got := generationOf(crypto.SubjectRow{Wrapped: []byte{1}}).erased(); got != "" {
		t.Errorf("printed is %q", got)
	}
}

// TestRemains: what an erasure leaves depends on the key store, and on whether all key names were erased.
func TestRemains(t *testing.T) {
	for url, want := range map[string]string{"sqlite:keys.db": "snapshots of its disk", "postgres://seal@db/keys": "VACUUM FULL", "dynamodb://keys?region=x": "exports and streams"} {
		o := subjectOptions{config: &config.Config{KeyStore: &config.KeyStore{URL: url}}}
		all := strings.Join(o.remains(), "\n")
		if !strings.Contains(all, "what the Temporal server has in clear") {
			t.Errorf("%s: no word about what is in clear: %s", url, all)
		}
		if !strings.Contains(all, want) || strings.Contains(all, "PostgreSQL") != (want == "VACUUM FULL") || strings.Contains(all, "other key names") {
			t.Errorf("%s: %s", url, all)
		}
		o.key = "phi"
		if all := strings.Join(o.remains(), "\n"); !strings.Contains(all, "other key names of the namespace were not erased") {
			t.Errorf("%s, one key: %s", url, all)
		}
	}
}
