package operator

import (
	"fmt"
	"strings"
	"testing"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

const metricsConfig = `
listeners: [{address: "127.0.0.1:0"}]
upstreams: [{address: "${frontend}"}]
admin: 127.0.0.1:0
keys: [{name: default, active: "${key}"}]
policy: {file: "${dir}/policy.rego", namespaces: "${dir}/namespaces"}
`

// measured starts a proxy whose gauges a scenario reads.
func (s *site) measured() *proxy {
	s.Helper()
	s.write("policy.rego", openAll)
	s.write("namespaces/orders.rego", "package temporal.namespaces[\"orders\"]\n")
	s.write("namespaces/billing.rego", "package temporal.namespaces[\"billing\"]\n")
	return s.serve(metricsConfig)
}

// becomes waits until a gauge has a value.
func (p *proxy) becomes(value float64, name string, labels ...string) {
	p.site.Helper()
	p.site.eventually(func() error {
		if got, found := p.metric(name, labels...); !found || got != value {
			return fmt.Errorf("%s %v is %v (found: %v), want %v", name, labels, got, found, value)
		}
		return nil
	})
}

func TestGauges(t *testing.T) {
	t.Parallel()
	scenario(t, "8.2", "version and commit", func(s *site) {
		p := s.measured()
		_, page := p.get("/metrics")
		version := strings.Fields(s.run("version").stdout)[1]
		s.contains("/metrics", page, `temporal_seal_build_info{commit="`, fmt.Sprintf(`version=%q`, version))
	})
	scenario(t, "8.3", "a config with a mistake, and its correction", func(s *site) {
		p := s.measured()
		p.becomes(0, "temporal_seal_config_stale")
		p.reconfigure(metricsConfig + "unheard_of: true\n")
		p.becomes(1, "temporal_seal_config_stale")
		_, ready := p.get("/readyz")
		s.contains("/readyz", ready, "unheard_of")
		p.reconfigure(metricsConfig)
		p.becomes(0, "temporal_seal_config_stale")
	})
	scenario(t, "8.4", "a policy with a mistake, and its correction", func(s *site) {
		p := s.measured()
		s.write("namespaces/orders.rego", "package temporal.namespaces[\"orders\"]\nno rule\n")
		p.becomes(1, "temporal_seal_policy_stale", "namespace", "orders")
		p.becomes(0, "temporal_seal_policy_stale", "namespace", "billing")
		p.becomes(0, "temporal_seal_policy_stale", "namespace", "*")
		s.write("namespaces/orders.rego", "package temporal.namespaces[\"orders\"]\n")
		p.becomes(0, "temporal_seal_policy_stale", "namespace", "orders")
	})
	for _, id := range []string{"8.5", "9.3"} {
		scenario(t, id, "sections that need a restart, and back", func(s *site) {
			p := s.measured()
			p.becomes(0, "temporal_seal_restart_pending", "section", "limits")
			p.reconfigure(metricsConfig + "limits: {calls: 77}\ndata_key_life: 12h\n")
			p.becomes(1, "temporal_seal_restart_pending", "section", "limits")
			p.becomes(1, "temporal_seal_restart_pending", "section", "data_key_life")
			p.becomes(0, "temporal_seal_restart_pending", "section", "listeners")
			p.becomes(0, "temporal_seal_config_stale")
			line := p.awaitLog("sections of the config have changed that take effect at the next start: restart the proxy")
			s.contains("the line", fmt.Sprint(line["sections"]), "limits", "data_key_life")
			_, ready := p.get("/readyz")
			s.contains("/readyz", ready, "limits", "data_key_life", "next start")
			p.reconfigure(metricsConfig)
			p.becomes(0, "temporal_seal_restart_pending")
			p.awaitLog("the config file is again as it was at the start; no restart is needed")
		})
	}
	scenario(t, "8.6", "a key is disabled and enabled", func(s *site) {
		id := s.kms.CreateKey(false)
		s.kms.SetAlias("alias/default", id)
		p := s.measured()
		p.becomes(0, "temporal_seal_key_revoked", "key", "default")
		s.kms.SetState(id, kmsstub.Disabled)
		s.sealIn(p, "orders")
		p.becomes(1, "temporal_seal_key_revoked", "key", "default")
		p.becomes(0, "temporal_seal_key_unavailable", "key", "default")
		s.kms.SetState(id, kmsstub.Enabled)
		s.sealIn(p, "billing")
		p.becomes(0, "temporal_seal_key_revoked", "key", "default")
	})
	scenario(t, "8.7", "two polls while the key service does not answer", func(s *site) {
		p := s.measured()
		p.becomes(0, "temporal_seal_polls_held")
		s.kms.Always("", kmsstub.Fault{Error: "KMSInternalException"})
		for range 2 {
			c, err := blackbox.Dial(p.address)
			s.ok(err)
			s.Cleanup(c.Close)
			go c.Do(s.Context(), blackbox.Request{Method: "PollActivityTaskQueue",
				Body: blackbox.Marshal(&workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"})})
		}
		p.becomes(2, "temporal_seal_polls_held")
		p.becomes(0, "temporal_seal_polls_held")
	})
	scenario(t, "8.8", "no counter appears with its first count", func(s *site) {
		u := newUnopenable(s)
		before := counters(u.proxy)
		s.want(len(before) > 50, "only %d series of counters at the start", len(before))
		for _, w := range ways {
			w.call(u, u.tampered)
			w.call(u, u.seal("billing"))
		}
		u.does("PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "orders"},
			blackbox.Message(&workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte("t"), WorkflowExecution: execution,
				ActivityId: "1", Input: payloads(u.tampered)}))
		for series := range counters(u.proxy) {
			s.want(before[series], "the series %s was not there from the start", series)
		}
	})
	scenario(t, "8.9", "labels of installations", func(s *site) {
		rules := repositoryFile(s, "deploy/prometheus/alerts.yaml")
		s.want(strings.Count(rules, "- alert: ") <= strings.Count(rules, "by (job, namespace"), "an alert does not keep the labels of its installation")
		s.contains("the test of the rules", repositoryFile(s, "deploy/prometheus/alerts_test.yaml"), "alerts about states hold as long as these")
		s.contains("CI", repositoryFile(s, ".ci/run"), "make test-alerts")
	})
	scenario(t, "6.4", "the rule, which make test-alerts has fire", func(s *site) {
		rule, ok := cutOut(repositoryFile(s, "deploy/prometheus/alerts.yaml"), "- alert: CertificateExpires", "- alert:")
		s.want(ok && strings.Contains(rule, "temporal_seal_cert_expiry_seconds) <"), "the rule does not read the gauge: %s", rule)
		s.contains("make test-alerts", repositoryFile(s, "e2e/alerts/states_test.go"), `alert: "CertificateExpires"`)
	})
	scenario(t, "8.10", "panels", func(s *site) {
		s.contains("the dashboard", repositoryFile(s, "deploy/grafana/temporal-seal.json"), "temporal_seal_key_revoked", "temporal_seal_key_payloads_total",
			"temporal_seal_limit", "temporal_seal_refused_total", "temporal_seal_config_stale", "temporal_seal_policy_stale", "temporal_seal_spans_total")
	})
}

// counters are the series of the product's counters, without histograms.
func counters(p *proxy) map[string]bool {
	_, page := p.get("/metrics")
	all, counter := map[string]bool{}, ""
	for line := range strings.Lines(page) {
		if fields := strings.Fields(line); strings.HasPrefix(line, "# TYPE ") && len(fields) == 4 && fields[3] == "counter" {
			counter = fields[2]
		}
		series, _, _ := cutLast(strings.TrimSpace(line), ' ')
		if counter != "" && strings.HasPrefix(counter, "temporal_seal_") && (series == counter || strings.HasPrefix(series, counter+"{")) {
			all[series] = true
		}
	}
	return all
}

// sealIn has the proxy seal a payload, or fail to.
func (s *site) sealIn(p *proxy, namespace string) {
	s.Helper()
	c, err := blackbox.Dial(p.address)
	s.ok(err)
	s.Cleanup(c.Close)
	_, _ = s.frontend().Seal(s.Context(), c, namespace, "", payloads(clearPayload()).Payloads)
}
