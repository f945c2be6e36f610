package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// subjectMetrics shows whether keys of subjects may serve, and how many are made.
type subjectMetrics struct{ of keyring.Subjects }

var (
	subjectsUsable = prometheus.NewDesc("temporal_seal_subject_keys_usable",
		"0 while keys of subjects are out of use, since the key store does not answer what was erased, or has forgotten it; otherwise 1.", nil, nil)
	subjectsLost = prometheus.NewDesc("temporal_seal_subjects_lost",
		"Subjects for whom nothing is sealed, since the key store has lost the rows of their keys.", nil, nil)
	newSubjectKeys = prometheus.NewDesc("temporal_seal_subject_keys_total",
		"New keys of subjects by outcome: made here, refused since their namespace makes them too fast.", []string{"outcome"}, nil)
	lastErasure = prometheus.NewDesc("temporal_seal_last_erasure",
		"Number of the last erasure or readmission that is in force here. Replicas of one key store differ for a few seconds.", nil, nil)
)

// Describe is part of prometheus.Collector.
func (subjectMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- subjectsUsable
	to <- subjectsLost
	to <- newSubjectKeys
	to <- lastErasure
}

// Collect is part of prometheus.Collector.
func (m subjectMetrics) Collect(to chan<- prometheus.Metric) {
	usable := 1.0
	if m.of.Stopped() != nil {
		usable = 0
	}
	to <- prometheus.MustNewConstMetric(subjectsUsable, prometheus.GaugeValue, usable)
	to <- prometheus.MustNewConstMetric(subjectsLost, prometheus.GaugeValue, float64(m.of.Lost()))
	made, refused := m.of.NewKeys()
	to <- prometheus.MustNewConstMetric(newSubjectKeys, prometheus.CounterValue, float64(made), "made")
	to <- prometheus.MustNewConstMetric(newSubjectKeys, prometheus.CounterValue, float64(refused), "refused")
	to <- prometheus.MustNewConstMetric(lastErasure, prometheus.GaugeValue, float64(m.of.LastErasure()))
}
