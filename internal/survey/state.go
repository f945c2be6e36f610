package survey

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// State is how far a survey of a server has come, so that it can be resumed.
type State struct {
	Scan  *scan.State `json:"scan"`
	Table *Table      `json:"survey"`
}

// ReadState returns the state that a file holds; without the file, that of a survey which has not begun.
func ReadState(file string) (*State, error) {
	state := &State{Scan: new(scan.State), Table: new(Table)}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err == nil {
		err = json.Unmarshal(text, state)
	}
	return state, err
}

// Save writes the state to a file, whole or not at all.
func (s *State) Save(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
