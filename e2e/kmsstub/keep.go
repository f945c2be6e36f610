package kmsstub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// kept is what a server keeps in a file, so that it can be killed and come back with its keys.
type kept struct {
	Keys    []keptKey
	Aliases map[string]string
}

type keptKey struct {
	ID, Region string
	Material   [][]byte
	State      State
	Created    time.Time
	Multi      bool
}

// Keep takes up the keys that an earlier server kept in a file, if it exists, and keeps them there from now on: each
// operation that changes them is answered once they are written.
func (s *Server) Keep(file string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kms stub: %w", err)
	}
	if err == nil {
		var k kept
		if err := json.Unmarshal(text, &k); err != nil {
			return fmt.Errorf("kms stub: %s: %w", file, err)
		}
		for _, e := range k.Keys {
			s.keys[e.ID] = &key{id: e.ID, region: e.Region, material: e.Material, state: e.State, created: e.Created, multi: e.Multi}
		}
		for alias, id := range k.Aliases {
			s.aliases[alias] = id
		}
	}
	s.file = file
	return s.save()
}

// Save keeps what was changed by this package's own methods, which have no answer to wait with.
func (s *Server) Save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save()
}

// save writes the file anew and puts it in the place of the old one, if keys are kept at all.
func (s *Server) save() error {
	if s.file == "" {
		return nil
	}
	k := kept{Aliases: s.aliases}
	for _, e := range s.keys {
		k.Keys = append(k.Keys, keptKey{e.id, e.region, e.material, e.state, e.created, e.multi})
	}
	text, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("kms stub: %w", err)
	}
	if err := os.WriteFile(s.file+".new", text, 0o600); err != nil {
		return fmt.Errorf("kms stub: %w", err)
	}
	return os.Rename(s.file+".new", s.file)
}

// changing are the operations after which there is something to keep.
var changing = map[string]bool{
	"CreateKey": true, "EnableKey": true, "DisableKey": true, "ScheduleKeyDeletion": true, "CancelKeyDeletion": true,
	"RotateKeyOnDemand": true, "CreateAlias": true, "UpdateAlias": true, "DeleteAlias": true,
}
