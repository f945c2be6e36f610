package app

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/statuspage"
	"github.com/temporal-seal/temporal-seal/internal/survey"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
)

// serving is what the status pages show of a proxy that serves.
type serving struct {
	changes      *applier
	version      string
	begun        time.Time
	certificates []certificate
	traffic      *traffic.Table
	pollsHeld    func() int
	survey       *survey.Live // nil: there is none
}

// status gathers what the replica reports.
func (s *serving) status() *statuspage.Status {
	state, now := s.changes.state.Load(), time.Now()
	replica, _ := os.Hostname() // "" if the system has none
	notReady := s.changes.worksNot(state)
	st := &statuspage.Status{Replica: replica, Version: s.version, Started: s.begun.UTC(), Time: now.UTC(), Ready: notReady == "", NotReady: notReady,
		Shadow: s.changes.started.Shadow, Notices: s.notices(state), PollsHeld: s.pollsHeld(),
		Policy: statuspage.Policy{Revision: state.policy.Revision(), Stale: []statuspage.StalePolicy{}}, Candidate: s.changes.candidate.status(state.policy),
		Payloads: s.traffic.Rows(), Keys: []statuspage.Key{}, DataKeys: []statuspage.DataKey{}, Certificates: []statuspage.Certificate{},
		Refusals: s.traffic.Refusals.List()}
	if s.survey != nil {
		st.Survey = s.survey.Report()
	}
	for _, stale := range state.policy.Stale() {
		st.Policy.Stale = append(st.Policy.Stale,
			statuspage.StalePolicy{Namespace: cmp.Or(stale.Namespace, "*"), Held: stale.Held, Error: stale.Err.Error()})
	}
	for entry, err := range s.changes.keys.Unopened() {
		key := statuspage.Key{Name: entry, Role: "active", KEK: keyNotOpen, State: statuspage.KeyNotOpen}
		if crypto.KindOf(err) == crypto.KindRevoked {
			key.State = statuspage.KeyRevoked
		}
		st.Keys = append(st.Keys, key)
	}
	slices.SortFunc(st.Keys, func(a, b statuspage.Key) int { return cmp.Compare(a.Name, b.Name) })
	for _, u := range usedKeys(s.changes.keys) {
		st.Keys = append(st.Keys, statuspage.Key{Name: u.Name, Role: string(u.Role), KEK: u.KEK, ARN: u.ARN, State: keyState(u.health),
			Sealed: u.Sealed, Opened: u.Opened, LastOpened: u.LastOpened.UTC()})
	}
	st.Notices = append(st.Notices, keyNotices(st.Keys)...)
	for _, w := range inUse(s.changes.keys).DataKeys {
		st.DataKeys = append(st.DataKeys, statuspage.DataKey(w))
	}
	for _, c := range s.certificates {
		st.Certificates = append(st.Certificates, statuspage.Certificate{Role: c.role, Name: c.name, Expires: c.expires()})
	}
	return st
}

func keyState(h keyhealth.Health) statuspage.KeyState {
	switch {
	case h.Revoked:
		return statuspage.KeyRevoked
	case h.Unavailable:
		return statuspage.KeyUnavailable
	}
	return statuspage.KeyWorks
}

// keyNotices are lines about keys that were open and do not work now. /readyz has those that have not answered yet.
func keyNotices(keys []statuspage.Key) (lines []string) {
	why := map[statuspage.KeyState]string{
		statuspage.KeyRevoked:     "is refused by its key service: it is disabled or deleted, or access to it is withdrawn; restore it, or name another",
		statuspage.KeyUnavailable: "gets no answer from its key service",
	}
	for _, k := range keys {
		if text, ok := why[k.State]; ok && k.KEK != keyNotOpen {
			lines = append(lines, fmt.Sprintf("key %q, reference %s, %s; what needs a new data key of it gets Unavailable, and polls that need one are held",
				k.Name, k.KEK, text))
		}
	}
	return lines
}

// notices are the lines of /readyz about what is held, disabled or not in force.
func (s *serving) notices(state *state) []string {
	var text bytes.Buffer
	s.changes.dependencies.describe(&text)
	describeStore(&text, s.changes.keys)
	describeMoved(&text, s.changes.keys)
	describeLives(&text, s.changes.keys)
	state.differences(&text, s.changes.flags.File)
	lines := []string{}
	for line := range strings.Lines(text.String()) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// status is what the status pages show of the candidate; nil if there is none.
func (n *candidate) status(inForce *policy.Policy) *statuspage.Candidate {
	if n == nil {
		return nil
	}
	c := n.compare(inForce)
	return &statuspage.Candidate{Revision: c.CandidateRevision, Error: c.Error, Decisions: c.Decisions, Differences: c.Differences}
}

// statusPage answers with the status for people, and statusJSON for programs. A proxy that drains has it too.
func (a *admin) statusPage(h http.Header, w io.Writer) (status int) {
	s := a.serving.Load()
	if s == nil {
		return notServing(w)
	}
	statuspage.Headers(h)
	if err := a.describe(s).WriteHTML(w); err != nil {
		return http.StatusInternalServerError
	}
	return http.StatusOK
}

func (a *admin) statusJSON(h http.Header, w io.Writer) (status int) {
	s := a.serving.Load()
	if s == nil {
		return notServing(w)
	}
	return writeJSON(h, w, a.describe(s))
}

// explainForm answers with the form of explain, and explain with what the policy in force decides about what was entered. The
// form is read before its turn comes, and nothing of it is logged or kept.
func (a *admin) explainForm(h http.Header, w io.Writer) (status int) {
	return a.explained(h, w, statuspage.NewForm(), func(*statuspage.Explain, *policy.Policy) {})
}

func (a *admin) explain(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, statuspage.MaxForm)
	form, err := statuspage.ReadForm(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), explainTime)
	defer cancel()
	a.explaining.answer(func(h http.Header, w io.Writer) int {
		return a.explained(h, w, form, func(e *statuspage.Explain, p *policy.Policy) { e.Ask(ctx, p) })
	})(w, r)
}

// explainTime bounds a decision that is explained.
const explainTime = 5 * time.Second

func (a *admin) explained(h http.Header, w io.Writer, form statuspage.Form, ask func(*statuspage.Explain, *policy.Policy)) (status int) {
	s := a.serving.Load()
	if s == nil {
		return notServing(w)
	}
	p := s.changes.state.Load().policy
	e := &statuspage.Explain{Form: form, RPCs: rewrite.RPCs(), Namespaces: p.Namespaces(), Revision: p.Revision()}
	ask(e, p)
	statuspage.Headers(h)
	if err := e.WriteHTML(w); err != nil {
		return http.StatusInternalServerError
	}
	return http.StatusOK
}

func notServing(w io.Writer) (status int) {
	fmt.Fprintln(w, "not ready: starting; /readyz says what it waits for")
	return http.StatusServiceUnavailable
}

// describe is the status, also of a proxy that calls should not come to any more.
func (a *admin) describe(s *serving) *statuspage.Status {
	st := s.status()
	if a.changes.Load() == nil {
		st.Ready, st.NotReady = false, "shutting down"
	}
	return st
}

// writeJSON writes a document of the admin listener.
func writeJSON(h http.Header, w io.Writer, document any) (status int) {
	h.Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(document); err != nil {
		return http.StatusInternalServerError
	}
	return http.StatusOK
}
