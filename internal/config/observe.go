package config

import (
	"fmt"
	"strings"
)

// Survey has the running proxy search samples of the payloads that it seals and opens for secrets and personal data.
type Survey struct {
	// Rate of the search, at most: 1 to 10000.
	Rate int `yaml:"rate" unit:"payloads a second" default:"100"`
	// Share of the proxy's CPU time that searching may take, in percent: 1 to 50. Beyond it fewer payloads are searched.
	CPUPercent int `yaml:"cpu_percent" unit:"percent" default:"5"`
	// File with rules of your own, as `temporal-seal survey --rules` takes it.
	Rules string `yaml:"rules" otherwise:"the built-in detectors alone"`
}

func (s *Survey) validate(d *document) {
	if s == nil {
		return
	}
	d.refuse(s.Rate < 1 || s.Rate > 10_000, "$.survey.rate", "must be from 1 to 10000, not %d", s.Rate)
	d.refuse(s.CPUPercent < 1 || s.CPUPercent > 50, "$.survey.cpu_percent", "must be from 1 to 50, not %d", s.CPUPercent)
	validateReadable(d, "$.survey.rules", s.Rules)
}

// Metrics is what metrics count beyond the whole of the proxy.
type Metrics struct {
	// Namespaces whose payloads `temporal_seal_namespace_payloads_total` counts apart, 100 at most. All others count as `other`.
	Namespaces []string `yaml:"namespaces" otherwise:"none, and the metric is not there"`
}

// maxMetricNamespaces bounds the namespaces with metrics of their own: each has a series for every outcome.
const maxMetricNamespaces = 100

func (m *Metrics) validate(d *document) {
	d.refuse(len(m.Namespaces) > maxMetricNamespaces, "$.metrics.namespaces", "must have at most %d names", maxMetricNamespaces)
	seen := map[string]bool{}
	for i, name := range m.Namespaces {
		path := fmt.Sprintf("$.metrics.namespaces[%d]", i)
		d.refuse(!isName(name), path, "must name one namespace; patterns with * are not allowed here")
		d.refuse(name == otherNamespaces, path, "must not be %s, by which all namespaces count that are not named", otherNamespaces)
		d.refuse(seen[name], path, "is named twice")
		seen[name] = true
	}
}

// otherNamespaces is the label of all namespaces that the config does not name.
const otherNamespaces = "other"

// isName reports whether a text is the name of one namespace.
func isName(text string) bool { return text != "" && len(text) <= 256 && !strings.Contains(text, "*") }
