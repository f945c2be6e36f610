// Package alerts shows that each alert of deploy/prometheus/alerts.yaml fires in its state, stops after it, and stays silent
// otherwise: built proxies, each a job of its own for one real Prometheus, which has the rules with shorter times. Each state is
// made and ended on its proxy (states_test.go) while another proxy has healthy load on a real Temporal server; no alert may
// fire for a job that it does not belong to. With the rules as they are, promtool runs deploy/prometheus/alerts_test.yaml.
//
// A new alert needs a state here, a test in alerts_test.yaml, and a line in docs/operations.md.
package alerts
