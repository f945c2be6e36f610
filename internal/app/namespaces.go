package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/traffic"
)

// namespaceMetrics counts payloads by namespace for those that the config names, so that callers cannot make series.
type namespaceMetrics struct {
	table *traffic.Table
	named []string
}

var namespacePayloads = prometheus.NewDesc("temporal_seal_namespace_payloads_total",
	"Payloads by what happened to them, for each namespace in metrics.namespaces of the config; other stands for all others.",
	[]string{"namespace", "outcome"}, nil)

// Describe implements prometheus.Collector.
func (*namespaceMetrics) Describe(to chan<- *prometheus.Desc) { to <- namespacePayloads }

// Collect implements prometheus.Collector.
func (m *namespaceMetrics) Collect(to chan<- prometheus.Metric) {
	for namespace, counts := range m.table.Totals(m.named) {
		for outcome, n := range counts {
			to <- prometheus.MustNewConstMetric(namespacePayloads, prometheus.CounterValue, float64(n), namespace, string(outcome))
		}
	}
}
