package app

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/survey"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
)

// SurveyDetector returns what searches payloads for the config's survey; nil without one.
func SurveyDetector(c *config.Config) (*detect.Detector, error) {
	switch {
	case c.Survey == nil:
		return nil, nil
	case c.Survey.Rules == "":
		return new(detect.Detector), nil
	}
	d, err := detect.ReadRules(c.Survey.Rules)
	if err != nil {
		return nil, config.At("survey.rules", err)
	}
	return d, nil
}

// observe starts what looks at the traffic besides the calls themselves: the metrics by namespace, and the survey of live traffic,
// which it returns; nil if the config has none.
func (a *applier) observe(ctx context.Context, table *traffic.Table, t *telemetry) *survey.Live {
	if named := a.started.Metrics.Namespaces; len(named) > 0 {
		t.registry.MustRegister(&namespaceMetrics{table, named})
	}
	if a.sampler == nil {
		return nil
	}
	o := a.started.Survey
	live := survey.NewLive(survey.LiveOptions{Detector: a.detector, Sampler: a.sampler, Rate: o.Rate, CPUPercent: o.CPUPercent,
		Known: table.Has, Log: t.log})
	t.count("temporal_seal_survey_payloads_seen_total", "Payloads in clear that passed by the survey of live traffic.", nil, a.sampler.Seen)
	t.count("temporal_seal_survey_payloads_searched_total", "Payloads that the survey of live traffic searched.", nil,
		func() uint64 { return live.Sampling().Searched })
	t.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "temporal_seal_survey_seconds_total",
		Help: "Time that the survey of live traffic spent searching."}, func() float64 { return live.Sampling().Seconds }))
	go live.Run(ctx)
	return live
}

// surveyed answers with what the survey of live traffic found.
func (a *admin) surveyed(h http.Header, w io.Writer) (status int) {
	s := a.serving.Load()
	if s == nil {
		return notServing(w)
	}
	if s.survey == nil {
		fmt.Fprintln(w, "no survey of live traffic is configured; set survey in the config")
		return http.StatusNotFound
	}
	return writeJSON(h, w, s.survey.Report())
}
