package statuspage

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/traffic"
)

//go:embed *.html
var files embed.FS

//go:embed style.css
var style string

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"style":    func() template.CSS { return template.CSS(style) }, //nolint:gosec // it is this package's own
	"outcomes": func() []outcome { return outcomes },
	"columns":  func() int { return 3 + len(outcomes) }, // namespace, workflow type, kind
	"when":     when, "age": age, "text": outcomeText, "plural": plural, "list": func(values ...any) []any { return values },
}).ParseFS(files, "*.html"))

// Headers sets those of every page: no script, nothing from elsewhere, no frame around it, and no copy in a cache.
func Headers(h http.Header) {
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Type", "text/html; charset=utf-8")
}

var contentPolicy = fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	hash(style))

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// WriteHTML writes the status as a page.
func (s *Status) WriteHTML(w io.Writer) error { return pages.ExecuteTemplate(w, "status.html", s) }

// Totals are the counts of all namespaces together.
func (s *Status) Totals() (total traffic.Row) {
	total.LastHour, total.SinceStart = traffic.Counts{}, traffic.Counts{}
	for _, row := range s.Payloads {
		for o, n := range row.LastHour {
			total.LastHour[o] += n
		}
		for o, n := range row.SinceStart {
			total.SinceStart[o] += n
		}
	}
	return total
}

// outcome is a column of the table of payloads.
type outcome struct {
	Of         rewrite.Outcome
	Name, Help string
	// Risk marks numbers that a reader should look at.
	Risk bool
}

var outcomes = []outcome{
	{rewrite.Sealed, "sealed", "requests: encrypted before the server got it", false},
	{rewrite.Masked, "masked", "requests: members were replaced for ever, and the rest encrypted", false},
	{rewrite.Passed, "passed", "requests: left in clear, as the policy says", false},
	{rewrite.PassedShadow, "shadow", "requests in shadow mode: left in clear, though the policy does not let it pass", true},
	{rewrite.Dropped, "dropped", "requests: replaced by an empty value", false},
	{rewrite.Denied, "denied", "refused by the policy, in a request or to a reader", true},
	{rewrite.Opened, "opened", "answers: decrypted for the caller", false},
	{rewrite.Redacted, "redacted", "a placeholder took its place", false},
	{rewrite.Kept, "kept", "answers: the caller got the ciphertext, as the policy says", false},
	{rewrite.Erased, "erased", "answers: a placeholder, since the subject was erased", false},
	{rewrite.Expired, "expired", "answers: a placeholder, since the life of the key is over", false},
	{rewrite.Failed, "failed", "answers: the policy lets it open, but its envelope or its key does not", true},
}

// outcomeText shows a number of an outcome, hour and total.
func outcomeText(o outcome, row traffic.Row) string {
	return fmt.Sprintf("%d / %d", row.LastHour[o.Of], row.SinceStart[o.Of])
}

// when writes a time for people, in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// age writes how long a time lies behind or ahead of now, in its two largest units.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "not known"
	}
	d := now.Sub(t).Round(time.Second)
	ahead := d < 0
	if ahead {
		d = -d
	}
	text := d.String()
	switch {
	case d >= 48*time.Hour:
		text = fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= time.Hour:
		text = fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		text = fmt.Sprintf("%d min", d/time.Minute)
	}
	if ahead {
		return "in " + text
	}
	return text + " ago"
}

// plural writes a number with a noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
