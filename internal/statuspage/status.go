// Package statuspage makes the pages of the admin listener for people: the status of the replica, and explain, which shows what
// the policy decides about a payload that its reader describes. It takes no command and changes nothing. Status never holds a
// payload; what is entered into explain is neither logged nor kept. internal/app serves the pages, and gathers the status.
//
// What is where:
//
//   - status.go: what a replica reports; page.go, status.html, style.css: how a browser shows it
//   - explain.go, explain.html: the policy's decision about a payload
package statuspage

import (
	"slices"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/survey"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
)

// Status is what one replica reports of itself. It is the document of the admin listener's /status.
type Status struct {
	Replica string    `json:"replica"` // the host's name, in Kubernetes that of the pod
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Time    time.Time `json:"time"`
	Ready   bool      `json:"ready"`
	// NotReady says why; "" if the replica is ready.
	NotReady string `json:"not_ready,omitempty"`
	Shadow   bool   `json:"shadow"`
	// Notices say what is held, disabled or not in force, and why, in the words of /readyz.
	Notices   []string `json:"notices"`
	PollsHeld int      `json:"polls_held"`
	Policy    Policy   `json:"policy"`
	// Candidate is the policy on trial; nil: none.
	Candidate    *Candidate        `json:"candidate,omitempty"`
	Payloads     []traffic.Row     `json:"payloads"`
	Keys         []Key             `json:"keys"`
	DataKeys     []DataKey         `json:"data_keys"`
	Certificates []Certificate     `json:"certificates"`
	Refusals     []traffic.Refusal `json:"refusals"`
	// Survey is what the survey of live traffic found; nil: there is none.
	Survey *survey.LiveReport `json:"survey,omitempty"`
}

// mostShown is how many data keys the page for people shows: a browser takes long for thousands, and so does making the page.
const mostShown = 500

// NewestDataKeys returns the data keys that the page for people shows.
func (s *Status) NewestDataKeys() []DataKey {
	if len(s.DataKeys) <= mostShown {
		return s.DataKeys
	}
	newest := slices.SortedFunc(slices.Values(s.DataKeys), func(a, b DataKey) int { return b.Made.Compare(a.Made) })
	return newest[:mostShown]
}

// OlderDataKeys returns how many data keys it leaves out.
func (s *Status) OlderDataKeys() int { return max(0, len(s.DataKeys)-mostShown) }

// Policy is the policy in force.
type Policy struct {
	Revision string        `json:"revision"`
	Stale    []StalePolicy `json:"stale"`
}

// StalePolicy is a module whose newest file is not in force.
type StalePolicy struct {
	Namespace string `json:"namespace"` // "*" for the platform's
	Held      bool   `json:"held"`      // no rules are in force, so the namespace is held
	Error     string `json:"error"`
}

// Candidate is the policy on trial.
type Candidate struct {
	Revision    string              `json:"revision,omitempty"`
	Error       string              `json:"error,omitempty"`
	Decisions   map[string]uint64   `json:"decisions"`
	Differences []policy.Difference `json:"differences"`
}

// Key is a key encryption key of an entry of the config.
type Key struct {
	Name       string    `json:"name"`
	Role       string    `json:"role"`
	KEK        string    `json:"kek"`
	ARN        string    `json:"arn,omitempty"`
	State      KeyState  `json:"state"`
	Sealed     uint64    `json:"sealed"`
	Opened     uint64    `json:"opened"`
	LastOpened time.Time `json:"last_opened,omitzero"`
}

// KeyState is whether a key encryption key works.
type KeyState string

// States of keys.
const (
	KeyWorks       KeyState = "ok"
	KeyRevoked     KeyState = "revoked"     // the key service refuses it
	KeyUnavailable KeyState = "unavailable" // the key service does not answer for it
	KeyNotOpen     KeyState = "not_open"    // it has not answered since the start
)

// DataKey is a data key that seals now.
type DataKey struct {
	Namespace string    `json:"namespace"`
	Key       string    `json:"key"`
	KEK       string    `json:"kek"`
	ID        string    `json:"id"`
	Made      time.Time `json:"made"`
}

// Certificate is one of a listener, of an upstream, or one that the proxy shows to an upstream.
type Certificate struct {
	Role    string    `json:"role"`
	Name    string    `json:"name"`
	Expires time.Time `json:"expires,omitzero"` // zero: not known yet
}
