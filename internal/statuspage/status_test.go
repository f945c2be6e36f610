package statuspage_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/statuspage"
	"github.com/temporal-seal/temporal-seal/internal/survey"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func page(t *testing.T, s *statuspage.Status) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// contains reports the parts that a page lacks. Line breaks and tags of a page are not what it says.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("the page lacks %q", part)
		}
	}
}

// TestPage: a page shows what the status says, and nothing of a name becomes markup.
func TestPage(t *testing.T) {
	counts := func(n uint64) traffic.Counts {
		c := traffic.Counts{}
		for i, o := range rewrite.AllOutcomes {
			c[o] = n + uint64(i)
		}
		return c
	}
	s := &statuspage.Status{Replica: "pod-1", Version: "1.2.3", Started: now.Add(-90 * time.Minute), Time: now, NotReady: "no key answers",
		Shadow: true, Notices: []string{"config: <b>keys</b> take effect at the next start"}, PollsHeld: 2,
		Policy: statuspage.Policy{Revision: "abc", Stale: []statuspage.StalePolicy{{Namespace: "shop", Held: true, Error: "shop.rego:3"}, {Namespace: "*"}}},
		Candidate: &statuspage.Candidate{Revision: "def", Error: "candidate.rego:7", Decisions: map[string]uint64{"same": 5, "different": 1},
			Differences: []policy.Difference{{Namespace: "clinic", Kind: "memo", From: policy.Decision{Action: "pass"}, To: policy.Decision{Action: "seal", Rules: []string{"c.rego:9"}}, Count: 4}}},
		Payloads: []traffic.Row{{Namespace: "<script>", Kind: "input", LastHour: counts(10), SinceStart: counts(100)},
			{Namespace: "shop", WorkflowType: "Order", Kind: "memo", LastHour: counts(0), SinceStart: counts(0)}},
		Keys: []statuspage.Key{{Name: "phi", Role: "active", KEK: "k1", State: statuspage.KeyRevoked, LastOpened: now.Add(-3 * 24 * time.Hour)},
			{Name: "default", State: statuspage.KeyWorks}},
		DataKeys:     []statuspage.DataKey{{Namespace: "shop", Key: "phi", ID: "0011", Made: now.Add(-30 * time.Second)}},
		Certificates: []statuspage.Certificate{{Name: "people", Role: "listener", Expires: now.Add(26 * time.Hour)}, {Name: "frontend"}},
		Survey: &survey.LiveReport{Sampling: survey.Sampling{Rate: 100, CPUPercent: 5, Seen: 40, Searched: 10, Percent: 25}, Places: 1, InClear: 1,
			Findings: []survey.Row{{At: survey.Place{Namespace: "clinic", WorkflowType: "<i>", Kind: "input"}, Pointer: "/iban", Searched: 9,
				Findings: []survey.RowFinding{{What: "IBAN", Certainty: "certain", Count: 7, Clear: new(6)}}}}},
		Refusals: []traffic.Refusal{{Namespace: "shop", Method: "StartWorkflowExecution", Code: "PERMISSION_DENIED", Reason: "denied", Count: 3, Last: now}},
	}
	text := page(t, s)
	contains(t, text, "pod-1", "1.2.3", "1 h 30 min ago", "Not ready: no key answers", "Shadow mode", "2 polls held", "&lt;b&gt;keys", "shop.rego:3",
		"held", "stale", "def", "candidate.rego:7", "c.rego:9", "&lt;script&gt;", "10 / 100", "not told", "10 / 100", "revoked", "3 days ago",
		"30s ago", "in 26 h 0 min", "not known yet", "PERMISSION_DENIED", "0s ago",
		"10 of 40 payloads", "25.0 %", "1 stay in clear", "clinic/&lt;i&gt; input", "/iban", "IBAN")
	for _, o := range rewrite.AllOutcomes {
		if name := strings.TrimPrefix(string(o), "passed_"); !strings.Contains(text, ">"+name+"</th>") {
			t.Errorf("the outcome %s has no column", o)
		}
	}
	if strings.Contains(text, "<script") || strings.Contains(text, "<b>keys") || strings.Contains(text, "ZgotmplZ") {
		t.Error("a name became markup")
	}
	empty := page(t, &statuspage.Status{Ready: true, Time: now})
	contains(t, empty, "Nothing is held or disabled", "No payload has come by", "The keys are not open yet", "No call was refused", "There are none")
	contains(t, page(t, &statuspage.Status{Ready: true, PollsHeld: 1}), "1 poll held")
}

// TestHeaders: no script runs on a page, and its own style does.
func TestHeaders(t *testing.T) {
	h := http.Header{}
	statuspage.Headers(h)
	contains(t, h.Get("Content-Security-Policy"), "default-src 'none'", "style-src 'sha256-", "frame-ancestors 'none'")
	if strings.Contains(h.Get("Content-Security-Policy"), "unsafe") || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", h)
	}
}

// TestNewestDataKeys: the page shows the newest data keys, and says how many it leaves out.
func TestNewestDataKeys(t *testing.T) {
	s := &statuspage.Status{Time: now}
	for i := range 510 {
		s.DataKeys = append(s.DataKeys, statuspage.DataKey{Namespace: fmt.Sprintf("ns-%d.", i), Key: "phi", Made: now.Add(time.Duration(i%100) * time.Minute)})
	}
	text := page(t, s)
	contains(t, text, "without 10 older ones, which <code>/keys</code> lists", "ns-99.")
	shown, oldest := strings.Count(text, ">ns-"), strings.Count(text, ">ns-0.")+strings.Count(text, ">ns-500.")
	if shown != 500 || oldest != 0 {
		t.Errorf("%d are shown, %d of them older than those left out", shown, oldest)
	}
}
