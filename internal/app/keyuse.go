package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// KeysInUse is the document of the admin listener's /keys. None of it is secret: envelopes hold the same.
type KeysInUse struct {
	Keys     []usedKey    `json:"keys"`
	DataKeys []workingKey `json:"data_keys"`
}

// usedKey is a key encryption key of an entry of the config, with what was done with it since the start.
type usedKey struct {
	Name       string       `json:"name"`
	Role       keyring.Role `json:"role"`
	KEK        string       `json:"kek"`
	ARN        string       `json:"arn,omitempty"`
	Sealed     uint64       `json:"sealed"`
	Opened     uint64       `json:"opened"`
	LastOpened time.Time    `json:"last_opened,omitzero"`

	health keyhealth.Health
}

// workingKey is a data key that seals now. Its ID is what revoked_data_keys takes.
type workingKey struct {
	Namespace string    `json:"namespace"`
	Key       string    `json:"key"`
	KEK       string    `json:"kek"`
	ID        string    `json:"id"`
	Made      time.Time `json:"made"`
}

// usedKeys lists the keys with their uses. Those beyond the bounded set are summed up, without a reference.
func usedKeys(keys *keyring.Keyring) (all []usedKey) {
	for _, u := range keys.Uses() {
		kek := keyring.OtherUses
		if u.KEK != (crypto.KEKRef{}) {
			kek = u.KEK.String()
		}
		all = append(all, usedKey{u.Entry, u.Role, kek, u.ARN, u.Sealed, u.Opened, u.LastOpened, u.Health})
	}
	return all
}

// inUse lists what the admin listener shows.
func inUse(keys *keyring.Keyring) KeysInUse {
	all := KeysInUse{Keys: usedKeys(keys)}
	for _, w := range keys.WorkingKeys() {
		all.DataKeys = append(all.DataKeys, workingKey{w.Namespace, w.Key, w.KEK.String(), w.ID.String(), w.Made})
	}
	return all
}

// keyMetrics shows what was sealed and opened with each key encryption key. Its labels come from the
// config, and for wildcard names from a bounded set, never from a namespace.
type keyMetrics struct{ keys *keyring.Keyring }

var (
	keyPayloads = prometheus.NewDesc("temporal_seal_key_payloads_total",
		"Envelopes sealed and opened, by the key's name in the config and the reference of its key encryption key.",
		[]string{"key", "kek", "action"}, nil)
	keyInfo = prometheus.NewDesc("temporal_seal_key_info",
		"1 for each key encryption key, with its role: active, open_only, or former where the config names it no more.",
		[]string{"key", "kek", "role", "arn"}, nil)
	aliasMoved = prometheus.NewDesc("temporal_seal_key_alias_moved",
		"How many keys an alias of the entry named before, since the start, that the entry does not name in another way; /readyz lists them.",
		[]string{"key"}, nil)
	keyLastOpened = prometheus.NewDesc("temporal_seal_key_last_opened_timestamp_seconds",
		"When an envelope of the key was last opened here.", []string{"key", "kek"}, nil)
	keyRevoked = prometheus.NewDesc("temporal_seal_key_revoked",
		"1 while the key service refuses the key: it is disabled, deleted, or access to it is withdrawn.",
		[]string{"key", "kek"}, nil)
	keyUnavailable = prometheus.NewDesc("temporal_seal_key_unavailable",
		"1 while the key service does not answer for the key.", []string{"key", "kek"}, nil)
	keyStoreUp = prometheus.NewDesc("temporal_seal_key_store_up",
		"0 while the key store does not answer, or is another one than the config names; 1 otherwise, also where none is configured.", nil, nil)
)

// Describe is part of prometheus.Collector.
func (m keyMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- keyPayloads
	ch <- keyInfo
	ch <- aliasMoved
	ch <- keyLastOpened
	ch <- keyRevoked
	ch <- keyUnavailable
	ch <- keyStoreUp
}

// Collect is part of prometheus.Collector.
func (m keyMetrics) Collect(ch chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	_, err := m.keys.StoreHealth()
	send(keyStoreUp, prometheus.GaugeValue, oneIf(err == nil))
	// Keys that could not be opened are not in use yet, and have no reference.
	for entry, err := range m.keys.Unopened() {
		revoked := crypto.KindOf(err) == crypto.KindRevoked
		send(keyRevoked, prometheus.GaugeValue, oneIf(revoked), entry, keyNotOpen)
		send(keyUnavailable, prometheus.GaugeValue, oneIf(!revoked), entry, keyNotOpen)
	}
	moved := map[string]int{}
	for _, key := range m.keys.Moved() {
		moved[key.Entry]++
	}
	for _, u := range usedKeys(m.keys) {
		if _, ok := moved[u.Name]; !ok && u.Name != keyring.OtherUses {
			moved[u.Name] = 0
		}
		send(keyPayloads, prometheus.CounterValue, float64(u.Sealed), u.Name, u.KEK, "sealed")
		send(keyPayloads, prometheus.CounterValue, float64(u.Opened), u.Name, u.KEK, "opened")
		if u.KEK != keyring.OtherUses {
			send(keyRevoked, prometheus.GaugeValue, oneIf(u.health.Revoked), u.Name, u.KEK)
			send(keyUnavailable, prometheus.GaugeValue, oneIf(u.health.Unavailable), u.Name, u.KEK)
		}
		send(keyInfo, prometheus.GaugeValue, 1, u.Name, u.KEK, string(u.Role), u.ARN)
		if !u.LastOpened.IsZero() {
			send(keyLastOpened, prometheus.GaugeValue, float64(u.LastOpened.Unix()), u.Name, u.KEK)
		}
	}
	for entry, n := range moved {
		send(aliasMoved, prometheus.GaugeValue, float64(n), entry)
	}
}

// keyNotOpen is in the place of the reference of a key that is not open.
const keyNotOpen = "not open"

// oneIf is the value of a gauge for a state.
func oneIf(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}
