package app

import (
	"encoding/hex"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// KeysInUse is what a running proxy shows of its keys. None of it is secret: envelopes hold the same.
type KeysInUse struct {
	Keys     []usedKey    `json:"keys"`
	DataKeys []workingKey `json:"data_keys"`
}

type usedKey struct {
	Name       string       `json:"name"`
	Role       keyring.Role `json:"role"`
	KEK        string       `json:"kek"`
	Sealed     uint64       `json:"sealed"`
	Opened     uint64       `json:"opened"`
	LastOpened *time.Time   `json:"last_opened,omitempty"`
}

type workingKey struct {
	Namespace string    `json:"namespace"`
	Key       string    `json:"key"`
	KEK       string    `json:"kek"`
	ID        string    `json:"id"`
	Made      time.Time `json:"made"`
}

func inUse(keys *keyring.Keyring) KeysInUse {
	var all KeysInUse
	for _, u := range keys.Uses() {
		k := usedKey{Name: u.Entry, Role: u.Role, KEK: kekLabel(u), Sealed: u.Sealed, Opened: u.Opened}
		if !u.LastOpened.IsZero() {
			k.LastOpened = &u.LastOpened
		}
		all.Keys = append(all.Keys, k)
	}
	for _, w := range keys.WorkingKeys() {
		all.DataKeys = append(all.DataKeys, workingKey{w.Namespace, w.Key, w.KEK.String(), hex.EncodeToString(w.DataKeyID[:]), w.Made})
	}
	return all
}

func kekLabel(u keyring.KeyUse) string {
	if u.KEK == (crypto.KEKRef{}) {
		return keyring.OtherUses
	}
	return u.KEK.String()
}

// keyMetrics shows what was sealed and opened with each key encryption key. Its labels come from the config, and for
// wildcard names from a bounded set, never from a namespace.
type keyMetrics struct{ keys *keyring.Keyring }

var (
	keyPayloads = prometheus.NewDesc("temporal_seal_key_payloads_total",
		"Envelopes sealed and opened, by the key's name in the config and the reference of its key encryption key.", []string{"key", "kek", "action"}, nil)
	keyInfo = prometheus.NewDesc("temporal_seal_key_info",
		"1 for each key encryption key, with its role: active, open_only, or former where the config names it no more.", []string{"key", "kek", "role"}, nil)
	keyLastOpened = prometheus.NewDesc("temporal_seal_key_last_opened_timestamp_seconds",
		"When an envelope of the key was last opened here.", []string{"key", "kek"}, nil)
)

func (m keyMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- keyPayloads
	ch <- keyInfo
	ch <- keyLastOpened
}

func (m keyMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, u := range m.keys.Uses() {
		kek := kekLabel(u)
		ch <- prometheus.MustNewConstMetric(keyPayloads, prometheus.CounterValue, float64(u.Sealed), u.Entry, kek, "sealed")
		ch <- prometheus.MustNewConstMetric(keyPayloads, prometheus.CounterValue, float64(u.Opened), u.Entry, kek, "opened")
		ch <- prometheus.MustNewConstMetric(keyInfo, prometheus.GaugeValue, 1, u.Entry, kek, string(u.Role))
		if !u.LastOpened.IsZero() {
			ch <- prometheus.MustNewConstMetric(keyLastOpened, prometheus.GaugeValue, float64(u.LastOpened.Unix()), u.Entry, kek)
		}
	}
}
