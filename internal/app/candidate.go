package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
	"github.com/temporal-seal/temporal-seal/internal/x/lograte"
)

// candidate keeps a policy on trial beside the one in force. It follows the candidate's files and the keys on its own, so that
// nothing about it holds up a change of the policy.
type candidate struct {
	options policy.Options
	keys    *keyring.Keyring
	trial   *policy.Trial
	log     *slog.Logger
	lines   lograte.Limiter // of differences, by what the metric counts them by
	differ  *prometheus.CounterVec

	tried   string       // the revision that load has tried last, and the keys against which
	triedBy *keyring.Set // it was tried

	mu    sync.Mutex
	fault error // why the newest candidate is not on trial; nil: it is
}

// CandidateOptions returns where the policy on trial comes from; false if there is none. What it leaves out is as in the policy in
// force.
func CandidateOptions(c *config.Config, keys *keyring.Keyring) (policy.Options, bool) {
	if c.Policy.Candidate == nil {
		return policy.Options{}, false
	}
	of := *c
	of.Policy = config.Policy{File: cmp.Or(c.Policy.Candidate.File, c.Policy.File),
		Namespaces: cmp.Or(c.Policy.Candidate.Namespaces, c.Policy.Namespaces)}
	o, err := PolicyOptions(&of, keys)
	return o, err == nil // only a bundle's options can fail
}

// newCandidate puts the config's candidate on trial. It returns nil if there is none.
func newCandidate(ctx context.Context, c *config.Config, keys *keyring.Keyring, t *telemetry) *candidate {
	options, ok := CandidateOptions(c, keys)
	if !ok {
		t.registry.MustRegister((*candidate)(nil)) // alerts and dashboards find the gauge everywhere
		return nil
	}
	n := &candidate{options: options, keys: keys, log: t.log,
		differ: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "temporal_seal_policy_candidate_differences_total",
			Help: "Decisions that the policy on trial takes otherwise, by kind of payload and the two actions."},
			[]string{"kind", "from", "to"})}
	n.trial = policy.NewTrial(n.differs)
	for _, outcome := range policy.ComparedOutcomes {
		t.count("temporal_seal_policy_candidate_decisions_total",
			"Decisions compared with those of the policy on trial, by outcome; too_slow and left_out are not known.",
			prometheus.Labels{"outcome": outcome.String()}, func() uint64 { return n.trial.Counted(outcome) })
	}
	t.registry.MustRegister(n.differ, n)
	n.load(ctx)
	return n
}

// onTrial returns what compares; nil if there is no candidate.
func (n *candidate) onTrial() *policy.Trial {
	if n == nil {
		return nil
	}
	return n.trial
}

// follow reads the candidate again when its files or the keys change, until ctx ends.
func (n *candidate) follow(ctx context.Context) {
	watch := filewatch.Options{Quiet: sourcesQuiet}
	if n.options.File != "" {
		watch.Files = []string{n.options.File}
	}
	if n.options.Namespaces != "" {
		watch.Folders = []string{n.options.Namespaces}
	}
	changes := filewatch.Notify(ctx, watch)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			n.load(ctx)
		}
	}
}

// load tries the candidate if its sources or the keys have changed, and after a failure. One goroutine calls it at a time.
func (n *candidate) load(ctx context.Context) {
	set, before := n.keys.Current(), n.stale()
	revision, tried, err := n.trial.Reload(ctx, n.options, n.tried, before != nil || set != n.triedBy)
	if !tried {
		return
	}
	err = policyError(err)
	switch {
	case err != nil && before != nil && err.Error() == before.Error(): // tried again, with the same outcome
	case err != nil:
		n.log.Error("the candidate policy does not load; calls go on by the policy in force", "error", err)
	case revision != n.tried || before != nil:
		n.log.Info("the candidate policy is compared with the policy in force", "candidate_revision", n.trial.Candidate().Revision())
	}
	n.tried, n.triedBy = revision, set
	n.mu.Lock()
	n.fault = err
	n.mu.Unlock()
}

// differs counts and logs a decision that the candidate takes otherwise.
func (n *candidate) differs(d *policy.Difference) {
	n.differ.WithLabelValues(d.Kind, d.From.Action, d.To.Action).Inc()
	leftOut, ok := n.lines.Next(d.Namespace + "\x00" + d.Kind + "\x00" + d.From.Action + "\x00" + d.To.Action)
	if !ok {
		return
	}
	n.log.Info("the candidate policy decides otherwise", "namespace", d.Namespace, "method", d.Method, "direction", d.Direction,
		"kind", d.Kind, "workflow_type", d.WorkflowType, "activity_type", d.ActivityType, "from", d.From.String(), "to", d.To.String(),
		"rules", strings.Join(d.To.Rules, ", "), "lines_left_out", leftOut)
}

// stale returns why the newest candidate is not on trial; nil if it is.
func (n *candidate) stale() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fault
}

// describe writes what is on trial, for people who look at /readyz.
func (n *candidate) describe(w io.Writer) {
	if n == nil {
		return
	}
	if p := n.trial.Candidate(); p != nil {
		fmt.Fprintf(w, "candidate policy: revision %s is compared with the policy in force; it has decided otherwise %d times; "+
			"/candidate lists how\n", p.Revision(), n.trial.Counted(policy.ComparedDifferent))
	}
	if err := n.stale(); err != nil {
		fmt.Fprintf(w, "candidate policy: its files do not load: %v\n", err)
	}
}

// comparison is the answer of /candidate.
type comparison struct {
	PolicyRevision    string              `json:"policy_revision"`
	CandidateRevision string              `json:"candidate_revision,omitempty"`
	Error             string              `json:"error,omitempty"`
	Decisions         map[string]uint64   `json:"decisions"`
	Differences       []policy.Difference `json:"differences"`
}

// compared answers how the candidate differs from the policy in force.
func (a *admin) compared(h http.Header, w io.Writer) (status int) {
	changes := a.changes.Load()
	if changes == nil || changes.candidate == nil {
		fmt.Fprintln(w, "no candidate policy is configured; set policy.candidate in the config")
		return http.StatusNotFound
	}
	return writeJSON(h, w, changes.candidate.compare(changes.state.Load().policy))
}

// compare returns how the candidate differs from the policy in force.
func (n *candidate) compare(inForce *policy.Policy) *comparison {
	answer := &comparison{PolicyRevision: inForce.Revision(), Decisions: map[string]uint64{}, Differences: n.trial.Differences(inForce)}
	if p := n.trial.Candidate(); p != nil {
		answer.CandidateRevision = p.Revision()
	}
	if err := n.stale(); err != nil {
		answer.Error = err.Error()
	}
	for _, outcome := range policy.ComparedOutcomes {
		answer.Decisions[outcome.String()] = n.trial.Counted(outcome)
	}
	return answer
}

var (
	candidateInfo = prometheus.NewDesc("temporal_seal_policy_candidate_info",
		"1 for the revision of the policy on trial.", []string{"revision"}, nil)
	candidateStale = prometheus.NewDesc("temporal_seal_policy_candidate_stale",
		"1 if the newest files of the policy on trial do not load; /readyz says why.", nil, nil)
)

// Describe is part of prometheus.Collector.
func (n *candidate) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(n, ch) }

// Collect is part of prometheus.Collector.
func (n *candidate) Collect(ch chan<- prometheus.Metric) {
	if n == nil {
		ch <- prometheus.MustNewConstMetric(candidateStale, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(candidateStale, prometheus.GaugeValue, oneIf(n.stale() != nil))
	if p := n.trial.Candidate(); p != nil {
		ch <- prometheus.MustNewConstMetric(candidateInfo, prometheus.GaugeValue, 1, p.Revision())
	}
}
