package app

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// report logs and counts what became of changed sources, and shows what is in force.
type report struct {
	log               *slog.Logger
	file              string // of the config
	configs, policies *prometheus.CounterVec
}

// newReport registers the metrics of the sources and of what is in force.
func newReport(a *applier, t *telemetry) *report {
	outcomes := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"outcome"})
		for _, outcome := range []string{"ok", "error"} { // an alert needs the zero before the first failure
			v.WithLabelValues(outcome)
		}
		return v
	}
	r := &report{log: t.log, file: a.flags.File,
		configs: outcomes("temporal_seal_config_reloads_total",
			"Attempts to take up keys, grants and revoked data keys from the config, by outcome."),
		policies: outcomes("temporal_seal_policy_reloads_total", "Attempts to load changed policy files, by outcome."),
	}
	t.registry.MustRegister(r.configs, r.policies, keyMetrics{a.keys}, subjectMetrics{a.keys.Subjects()}, expiryMetrics{a.keys}, stateMetrics{a.state.Load, a.started.Shadow})
	return r
}

// started logs what is disabled from the start.
func (r *report) started(now *state) {
	for _, err := range now.unanswered() {
		r.log.Error("a key does not answer: what needs it is disabled, and polls that need it are held, until it answers",
			"error", err)
	}
	for _, s := range now.policy.Stale() {
		r.policies.WithLabelValues("error").Inc()
		r.log.Error("a namespace's policy does not load: the namespace is held until its file is corrected",
			"namespace", s.Namespace, "error", s.Err)
	}
}

// applied reports a change. What is tried again and again without success is reported once.
func (r *report) applied(before, now *state, configChanged bool) {
	if !slices.Equal(before.restart, now.restart) {
		r.restart(now.restart)
	}
	if configChanged || !sameCause(before.causes(), now.causes()) {
		r.config(now, configChanged)
	}
	r.policy(before.policy, now.policy)
}

// moved logs aliases that name other keys now.
func (r *report) moved(before, now []keyring.MovedKey) {
	for _, m := range now {
		if !slices.Contains(before, m) {
			r.log.Error("an alias names another key now: a replica that starts later does not open what the earlier key sealed. "+
				"Add the earlier key's ARN to open_only of the entry", "key", m.Entry, "uri", m.URI, "before", m.Before, "now", m.Now)
		}
	}
}

// describeKeys writes which keys the URIs mean, and which aliases have moved, for people who look at /readyz.
func describeKeys(w io.Writer, keys *keyring.Keyring) {
	describeStore(w, keys)
	for _, u := range keys.Uses() {
		if u.ARN != "" && u.Role != keyring.RoleFormer {
			fmt.Fprintf(w, "key %q: %s %s, reference %s\n", u.Entry, u.Role, u.ARN, u.KEK)
		}
	}
	if err := keys.Subjects().Stopped(); err != nil {
		fmt.Fprintf(w, "keys of subjects are out of use: %v\n", err)
	}
	describeMoved(w, keys)
	describeLives(w, keys)
}

// describeStore writes that the key store does not answer. Its own error may name users and hosts of the database, and belongs in
// the log: everybody on the network may read /readyz.
func describeStore(w io.Writer, keys *keyring.Keyring) {
	if since, err := keys.StoreHealth(); err != nil {
		fmt.Fprintf(w, "the key store has not answered as it should since %s: %s; the log has its error; until it does, new data keys seal "+
			"self-contained envelopes, and none is made of names with a life\n", since.UTC().Format(time.RFC3339), crypto.ForCaller(err))
	}
}

// describeMoved writes which aliases name other keys now.
func describeMoved(w io.Writer, keys *keyring.Keyring) {
	for _, m := range keys.Moved() {
		fmt.Fprintf(w, "key %q: alias moved: %s names %s now, and named %s before; add the ARN before to open_only of the entry: "+
			"a replica that starts later does not open what that key sealed\n", m.Entry, m.URI, m.Now, m.Before)
	}
}

// config reports the outcome for the config file. An outcome with problems counts as an error, also where a
// part of the file is in force.
func (r *report) config(now *state, changed bool) {
	if causes := now.causes(); len(causes) > 0 {
		r.configs.WithLabelValues("error").Inc()
		err := errors.Join(causes...)
		if now.refused {
			r.log.Error("the changed config is refused, the keys and grants before it stay in force", "error", err)
		} else {
			r.log.Error("the changed config is in force, but not all of it", "error", err)
		}
		return
	}
	r.configs.WithLabelValues("ok").Inc()
	r.log.Info("keys and grants taken from the config",
		"keys", len(now.keys), "grants", len(now.grants), "revoked_data_keys", len(now.revoked))
}

// restart reports which sections of the config wait for a restart.
func (r *report) restart(sections []string) {
	if len(sections) == 0 {
		r.log.Info("the config file is again as it was at the start; no restart is needed", "file", r.file)
		return
	}
	r.log.Warn("sections of the config have changed that take effect at the next start: restart the proxy",
		"sections", strings.Join(sections, ","), "file", r.file)
}

// policy reports modules that do not load, unless they failed in the same way before, and a policy that
// is new in force.
func (r *report) policy(before, now *policy.Policy) {
	for _, s := range now.Stale() {
		if slices.ContainsFunc(before.Stale(), func(old policy.Stale) bool {
			return old.Namespace == s.Namespace && old.Err.Error() == s.Err.Error()
		}) {
			continue
		}
		r.policies.WithLabelValues("error").Inc()
		attributes := []any{"policy_revision", now.Revision(), "error", s.Err}
		if s.Namespace != "" {
			attributes = append(attributes, "namespace", s.Namespace)
		}
		r.log.Error("new policy refused, the old one stays in force", attributes...)
	}
	switch {
	case now.Revision() != before.Revision():
		r.log.Info("policy reloaded",
			"policy_revision", now.Revision(), "before", before.Revision(), "namespaces", len(now.Namespaces()))
	case now.Err() == nil && before.Err() != nil:
		r.log.Info("policy sources are again those in force", "policy_revision", now.Revision())
	default:
		return
	}
	r.policies.WithLabelValues("ok").Inc()
}

// passing matches what differs between two tries that fail for the same reason: the ids that AWS gives
// to requests, and the local ports of broken connections.
var passing = regexp.MustCompile(`RequestID: [^,\s]*|:\d+->`)

// sameCause reports whether the sources differ from what is in force for the same reasons as before.
func sameCause(before, now []error) bool {
	return passing.ReplaceAllString(fmt.Sprint(before), "") == passing.ReplaceAllString(fmt.Sprint(now), "")
}

// describe writes what is in force and why the sources differ from it, for people who look at /readyz.
func (s *state) describe(w io.Writer, file string) {
	fmt.Fprintf(w, "policy: revision %s\n", s.policy.Revision())
	s.differences(w, file)
}

// differences writes why the sources differ from what is in force.
func (s *state) differences(w io.Writer, file string) {
	revision := s.policy.Revision()
	for _, err := range s.unanswered() {
		fmt.Fprintf(w, "key does not answer: %v; what needs it gets Unavailable, and polls that need it are held; "+
			"it is tried again within %v\n", err, slowestRetry)
	}
	for _, stale := range s.policy.Stale() {
		if stale.Held {
			fmt.Fprintf(w, "policy of namespace %q: it does not load, so the namespace is held until the file is corrected: %v\n",
				stale.Namespace, stale.Err)
			continue
		}
		if stale.Namespace == "" {
			fmt.Fprintf(w, "policy: changed files do not load, revision %s stays in force: %v\n", revision, stale.Err)
			continue
		}
		fmt.Fprintf(w, "policy of namespace %q: its changed file does not load, the rules before it stay in force: %v\n",
			stale.Namespace, stale.Err)
	}
	for _, err := range s.problems {
		if s.refused {
			fmt.Fprintf(w, "config: %s is refused, the keys and grants before it stay in force: %v\n", file, err)
		} else {
			fmt.Fprintf(w, "config: not all of %s is in force: %v\n", file, err)
		}
	}
	if len(s.restart) > 0 {
		fmt.Fprintf(w, "config: %s of %s take effect at the next start\n", strings.Join(s.restart, ", "), file)
	}
}

// stateMetrics shows the policy's revision, which sections of the config wait for a restart, and whether the sources differ from what is in force. Its
// labels are that revision and the namespaces that have policy files.
type stateMetrics struct {
	state  func() *state
	shadow bool // the proxy runs in shadow mode
}

var (
	configStale = prometheus.NewDesc("temporal_seal_config_stale",
		"1 while the config file, or a part of it, is refused; /readyz says why.", nil, nil)
	shadowMode     = prometheus.NewDesc("temporal_seal_shadow", "1 in shadow mode, in which nothing new is sealed.", nil, nil)
	restartPending = prometheus.NewDesc("temporal_seal_restart_pending",
		"1 while a section of the config file differs from what is in force and takes effect at the next start.",
		[]string{"section"}, nil)
	policyStale = prometheus.NewDesc("temporal_seal_policy_stale",
		"1 if the newest policy file of a namespace is not in force, * for the platform's; /readyz says why.",
		[]string{"namespace"}, nil)
	policyInfo = prometheus.NewDesc("temporal_seal_policy_info",
		"1 for the policy revision in force.", []string{"revision"}, nil)
)

// Describe is part of prometheus.Collector.
func (m stateMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect is part of prometheus.Collector.
func (m stateMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.state()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	stale := map[string]float64{"*": 0}
	for _, namespace := range s.policy.Namespaces() {
		stale[namespace] = 0
	}
	for _, m := range s.policy.Stale() {
		stale[cmp.Or(m.Namespace, "*")] = 1
	}
	for namespace, value := range stale {
		gauge(policyStale, value, namespace)
	}
	gauge(policyInfo, 1, s.policy.Revision())
	gauge(configStale, oneIf(len(s.causes()) > 0))
	gauge(shadowMode, oneIf(m.shadow))
	for _, section := range restartSections {
		gauge(restartPending, oneIf(slices.Contains(s.restart, section)), section)
	}
}
