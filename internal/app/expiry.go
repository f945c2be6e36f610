package app

import (
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// expiryMetrics shows when data keys expire, by the names that the config gives their keys.
type expiryMetrics struct{ keys *keyring.Keyring }

var (
	keyLife = prometheus.NewDesc("temporal_seal_key_life_seconds",
		"The life that the config has for the key; 0 of one that has none any more.", []string{"key"}, nil)
	keyNextExpiry = prometheus.NewDesc("temporal_seal_key_next_expiry_timestamp_seconds",
		"When the next data key of the key expires, after which what it sealed opens nowhere; 0 while none does.", []string{"key"}, nil)
	keysExpiring = prometheus.NewDesc("temporal_seal_expiring_data_keys",
		"Data keys in the key store that are going to expire.", []string{"key"}, nil)
	keysOverdue = prometheus.NewDesc("temporal_seal_overdue_data_keys",
		"Data keys whose life is over and whose wrapped key is still in the key store, where it should have been destroyed.", []string{"key"}, nil)
	keyConflicts = prometheus.NewDesc("temporal_seal_key_life_conflicts",
		"Namespaces in which nothing is sealed with the key, since config and key store differ about whether its data keys expire.", []string{"key"}, nil)
	keysDestroyed = prometheus.NewDesc("temporal_seal_expired_data_keys_total",
		"Data keys that this replica has destroyed in the key store at the end of their life.", []string{"key"}, nil)
)

// Describe is part of prometheus.Collector.
func (expiryMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- keyLife
	to <- keyNextExpiry
	to <- keysExpiring
	to <- keysOverdue
	to <- keyConflicts
	to <- keysDestroyed
}

// Collect is part of prometheus.Collector.
func (m expiryMetrics) Collect(to chan<- prometheus.Metric) {
	for _, e := range keyring.Expiries(m.keys) {
		next := 0.0
		if !e.Next.IsZero() {
			next = float64(e.Next.Unix())
		}
		to <- prometheus.MustNewConstMetric(keyLife, prometheus.GaugeValue, e.Life.Seconds(), e.Entry)
		to <- prometheus.MustNewConstMetric(keyNextExpiry, prometheus.GaugeValue, next, e.Entry)
		to <- prometheus.MustNewConstMetric(keysExpiring, prometheus.GaugeValue, float64(e.Expiring), e.Entry)
		to <- prometheus.MustNewConstMetric(keysOverdue, prometheus.GaugeValue, float64(e.Overdue), e.Entry)
		to <- prometheus.MustNewConstMetric(keyConflicts, prometheus.GaugeValue, float64(e.Conflicts), e.Entry)
		to <- prometheus.MustNewConstMetric(keysDestroyed, prometheus.CounterValue, float64(e.Destroyed), e.Entry)
	}
}

// describeLives writes which keys are not destroyed in time, and for which config and key store differ, for people who look at /readyz.
func describeLives(w io.Writer, keys *keyring.Keyring) {
	for _, e := range keyring.Expiries(keys) {
		if e.Overdue > 0 {
			fmt.Fprintf(w, "key %q: %d data keys are still in the key store more than %v after their end; the log says why they are not destroyed\n",
				e.Entry, e.Overdue, crypto.OverdueAfter)
		}
		if e.Conflicts > 0 {
			fmt.Fprintf(w, "key %q: nothing is sealed with it in %d namespaces, since the config and the key store differ about whether its data keys expire; "+
				"run `temporal-seal check`\n", e.Entry, e.Conflicts)
		}
	}
}
