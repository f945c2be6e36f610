package config

import "time"

// Drain is how the proxy shuts down.
type Drain struct {
	// How long the proxy goes on serving callers that do not leave, and running calls may take to end. It ends earlier
	// if no caller is left. In Kubernetes set `terminationGracePeriodSeconds` to `delay` and this time and 10 s more, which is 35 with
	// the defaults; the chart does. Below 65s long polls are kept shorter all along, so that they end in time.
	Time time.Duration `yaml:"time" default:"25s"`
	// How long the proxy goes on serving after `/readyz` has turned before it asks its callers to leave, so that load
	// balancers notice.
	Delay time.Duration `yaml:"delay" default:"0s"`
	// `worker` waits first until no caller is connected, for a sidecar that has to outlive its worker.
	After string `yaml:"after" otherwise:"nothing" enum:"worker"`
}

func (c *Drain) validate(d *document) {
	d.refuse(c.After != "" && c.After != "worker", "$.drain.after", "must be worker, not %q", c.After)
}
