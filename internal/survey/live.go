package survey

import (
	"context"
	"log/slog"
	"maps"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	failurepb "go.temporal.io/api/failure/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
	"github.com/temporal-seal/temporal-seal/internal/x/fault"
)

// LiveOptions are what a live survey needs. All fields are required.
type LiveOptions struct {
	Detector *detect.Detector
	Sampler  *rewrite.Sampler
	// Rate is how many payloads are searched in a second, at most.
	Rate int
	// CPUPercent is the share of the process's CPU time that searching may take.
	CPUPercent int
	// Known reports whether the server knows a namespace. Samples of others are dropped: callers make up names.
	Known func(namespace string) bool
	Log   *slog.Logger
}

// Live searches samples of the payloads that pass through a proxy. It keeps counts by place, and no value. It is safe for
// concurrent use.
type Live struct {
	options LiveOptions
	began   time.Time
	budget  budget

	counts liveCounts

	mu     sync.Mutex
	survey *Survey
}

// liveCounts are counts of samples. Scrapes read them while a sample is searched.
type liveCounts struct {
	searched, dropped, failed atomic.Uint64
	took                      atomic.Int64 // nanoseconds
}

// liveBounds are those of a live survey's table: it lives as long as the proxy, and takes some 10 MB at most.
var liveBounds = bounds{strata: 500, nodes: 100}

// liveValues bounds the values of one payload that are searched.
const liveValues = 20_000

// NewLive returns a survey that searches nothing before Run.
func NewLive(o LiveOptions) *Live {
	t := &Table{bounds: liveBounds}
	t.index()
	return &Live{options: o, began: time.Now(), survey: &Survey{options: Options{Detector: o.Detector}, table: t, live: true},
		budget: budget{percent: o.CPUPercent, used: processCPU()}}
}

// Run searches until the context ends: never faster than the rate, and never more than the budget of CPU time allows.
func (l *Live) Run(ctx context.Context) {
	pause := time.Second / time.Duration(l.options.Rate)
	for ctx.Err() == nil {
		l.options.Sampler.Want()
		select {
		case <-ctx.Done():
			return
		case sample := <-l.options.Sampler.Samples():
			l.search(&sample)
		}
		sleep(ctx, pause)
		longest := l.budget.longest()
		for waited := time.Duration(0); l.budget.exceeded(processCPU()) && ctx.Err() == nil; waited += step {
			if waited >= longest {
				l.budget.saved = 0
				break
			}
			sleep(ctx, step)
		}
	}
}

const (
	// slowest is how long a survey waits for CPU time after a sample that was searched fast, so that a proxy with little to do is
	// searched too.
	slowest = 10 * time.Second
	step    = 100 * time.Millisecond
	// overhead is what a search counts as, as a multiple of the time that it takes: its garbage is collected later, it is woken and put
	// to sleep, and calls find their data gone from the processor's caches. `make bench-survey` measured 3 at the highest rate.
	overhead = 4
)

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// budget is the CPU time that searching may take.
type budget struct {
	percent int
	used    time.Duration // by the process, when it was read last
	saved   time.Duration // may be used; below 0: too much was
}

// maxSaved bounds the time that a budget saves, so that a quiet hour does not pay for a burst.
const maxSaved = 100 * time.Millisecond

// exceeded reports whether too much time was used. used is the process's CPU time.
func (b *budget) exceeded(used time.Duration) bool {
	b.saved = min(b.saved+(used-b.used)*time.Duration(b.percent)/100, maxSaved)
	b.used = used
	return b.saved < 0
}

// longest is how long a survey waits for CPU time. What was searched slowly waits so long that a process which does nothing else
// gives searching no more than its share of a core.
func (b *budget) longest() time.Duration {
	return max(slowest, -b.saved*100/time.Duration(b.percent))
}

// search searches one sample and wipes it. A panic ends this search alone.
func (l *Live) search(sample *rewrite.Sample) {
	began := time.Now()
	l.mu.Lock()
	defer func() {
		if p := recover(); p != nil {
			l.counts.failed.Add(1)
			l.options.Log.Error("a fault ended the search of a sample; report it with this text", "namespace", sample.Namespace,
				"fault", fault.Describe(p), "stack", string(debug.Stack()))
		}
		l.mu.Unlock()
		clear(sample.Value)
		took := time.Since(began)
		l.counts.took.Add(int64(took))
		l.budget.saved -= overhead * took
	}()
	if !l.options.Known(sample.Namespace) {
		l.counts.dropped.Add(1)
		return
	}
	l.look(sample)
	l.counts.searched.Add(1)
}

// look searches one sample.
func (l *Live) look(sample *rewrite.Sample) {
	switch sample.Form {
	case rewrite.SampleFailure:
		var f failurepb.Failure
		if proto.Unmarshal(sample.Value, &f) != nil {
			return
		}
		rewrite.Texts(&f, func(t rewrite.Text) {
			if t.Kind == policy.KindFailure {
				l.text(sample, textName(t), t.Value)
			}
		})
	case rewrite.SampleText:
		l.text(sample, sample.Name, string(sample.Value))
	default:
		l.payload(sample)
	}
}

// payload searches a sample that is a payload.
func (l *Live) payload(sample *rewrite.Sample) {
	stratum := l.stratum(sample, sample.Name)
	f := rewrite.Found{Payload: sample.Value}
	f.Sealed, f.Marked, f.Err = envelope.ParsePayload(sample.Value)
	p, encoding := l.survey.readable(sample.Namespace, stratum, f)
	if p == nil {
		return
	}
	stratum.Searched++
	look := looker{detector: l.options.Detector, stratum: stratum, most: liveValues,
		verdicts: verdicts{inForce: liveVerdict(sample, encoding, p.GetData(), stratum)}}
	look.data(encoding, p.GetData())
}

// text searches a text that is no payload.
func (l *Live) text(sample *rewrite.Sample, name, text string) {
	if text == "" || envelope.MarkedText([]byte(text)) {
		return
	}
	stratum := l.stratum(sample, name)
	stratum.Payloads++
	stratum.Bytes += len(text)
	stratum.Searched++
	look := looker{detector: l.options.Detector, stratum: stratum, verdicts: verdicts{inForce: liveVerdict(sample, "", nil, stratum)}}
	look.verdicts.whole()
	look.root().see(text)
	look.text(look.root(), text)
}

func (l *Live) stratum(sample *rewrite.Sample, name string) *Stratum {
	return l.survey.stratum(&unit{namespace: sample.Namespace, workflowType: sample.WorkflowType, activityType: sample.ActivityType}, sample.Kind, name)
}

// liveVerdict counts what became of a sample, and returns what of it stays readable.
func liveVerdict(sample *rewrite.Sample, encoding string, data []byte, stratum *Stratum) verdict {
	v := sample.Verdict
	switch {
	case sample.Direction == policy.Response:
		stratum.InForce["opened from an answer"]++
		return verdict{all: true}
	case sample.Shadowed:
		stratum.InForce["passes in shadow mode"]++
		return verdict{}
	case len(v.Fields) > 0 && envelope.Unmatched(encoding, data, v.Fields, v.MayMiss()) != "":
		v.Fields = nil // it lacks one of them, and is sealed whole
	}
	stratum.InForce[describe(v)]++
	return verdictOf(v)
}

// LiveReport is what a live survey found since it began.
type LiveReport struct {
	Since    time.Time `json:"since"`
	Sampling Sampling  `json:"sampling"`
	Places   int       `json:"places"` // with findings
	InClear  int       `json:"places_policy_leaves_in_clear"`
	// Findings are sorted by risk: what stays in clear, and what is surely found, comes first. There are LiveFindings at most.
	Findings []Row `json:"findings"`
}

// LiveFindings bounds the rows of a live report.
const LiveFindings = 200

// Sampling is how much of the traffic a live survey searched.
type Sampling struct {
	Rate       int     `json:"rate"`        // payloads a second, at most
	CPUPercent int     `json:"cpu_percent"` // of the process's CPU time, at most
	Seen       uint64  `json:"seen"`        // payloads in clear that passed by
	Searched   uint64  `json:"searched"`
	Dropped    uint64  `json:"dropped"` // samples of namespaces that the server does not know
	Failed     uint64  `json:"failed"`  // samples whose search a fault ended
	TooLarge   uint64  `json:"too_large"`
	Percent    float64 `json:"searched_percent"` // of those seen
	Seconds    float64 `json:"search_seconds"`
}

// Sampling returns how much was searched.
func (l *Live) Sampling() Sampling {
	s := Sampling{Rate: l.options.Rate, CPUPercent: l.options.CPUPercent, Seen: l.options.Sampler.Seen(), Searched: l.counts.searched.Load(),
		Dropped: l.counts.dropped.Load(), Failed: l.counts.failed.Load(), TooLarge: l.options.Sampler.TooLarge(),
		Seconds: time.Duration(l.counts.took.Load()).Seconds()}
	if s.Seen > 0 {
		s.Percent = 100 * float64(s.Searched) / float64(s.Seen)
	}
	return s
}

// Report returns what was found so far.
func (l *Live) Report() *LiveReport {
	r := &LiveReport{Since: l.began.UTC(), Sampling: l.Sampling(), Findings: []Row{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	whole := l.survey.Report(nil, time.Now())
	r.Places, r.InClear = whole.Summary.Places, *whole.Summary.InClear
	found := whole.Found()
	r.Findings = append(r.Findings, found[:min(len(found), LiveFindings)]...)
	for i := range r.Findings {
		row := &r.Findings[i]
		row.InForce, row.Candidate = maps.Clone(row.InForce), nil // the survey goes on counting
	}
	return r
}
