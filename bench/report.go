package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// document replaces the table in a document.
func (r *results) document(file string) error {
	var table bytes.Buffer
	fmt.Fprintf(&table, "%s\nMedians of %d turns of %s.\n\n", r.machine, r.rounds, r.turn)
	r.table(&table)
	r.summary(&table)
	fmt.Fprintf(&table, "CPU per request with tracing of all calls, with the audit log, and with both, as times that of `%s`:\n\n", sealing)
	r.telemetryTable(&table)
	if len(r.cold) > 0 {
		fmt.Fprintf(&table, "`%s`, medians of %d processes:\n\n", coldWork, r.cold[0].starts)
		r.coldTable(&table)
	}
	return replaced(file, "bench", table.String())
}

// replaced replaces what stands in a document between the lines of a mark, which this program writes.
func replaced(file, mark, table string) error {
	begin, end := "<!-- "+mark+" -->\n", "<!-- /"+mark+" -->\n"
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begun := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !begun || !ended {
		return fmt.Errorf("%s has no lines %q and %q", file, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(file, []byte(before+begin+table+end+after), 0o644)
}

// summary writes the ratios as a table.
func (r *results) summary(w io.Writer) {
	fmt.Fprintln(w, "| work | CPU, pass : relay | CPU, seal : relay | CPU, seal : relay-sealed | CPU, visitor : seal | added p50, seal : nginx | length, sealed : clear |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, work := range r.works {
		ratio, added := r.cpuRatio[work], r.p50Added[work]
		bytes := ""
		if sealed, ok := ratio[sealedPlain]; ok {
			bytes = fmt.Sprintf("%.2f", ratio[sealing]/sealed)
		}
		length := ""
		if n := r.lengths[work]; strings.HasPrefix(work, historyWork) && n[plain] > 0 {
			length = fmt.Sprintf("%.2f", float64(n[sealing])/float64(n[plain]))
			if n[referring] > 0 {
				length += fmt.Sprintf(", by reference %.2f", float64(n[referring])/float64(n[plain]))
			}
		}
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %s | %.1f | %.2f | %s |\n", work, ratio["pass"], ratio[sealing], bytes, ratio["visitor"]/ratio[sealing],
			added[sealing]/added["nginx"], length)
	}
	fmt.Fprintln(w)
}

// table writes what a person reads.
func (r *results) table(w io.Writer) {
	fmt.Fprintln(w, "| work | variant | requests/s | p50 | p99 | CPU per request | x relay | memory |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	for _, work := range r.works {
		for _, v := range r.variants {
			f, ok := r.median[work][v]
			if !ok {
				continue
			}
			if v == direct {
				fmt.Fprintf(w, "| %s | %s | %.0f | %s | %s | | | |\n", work, v, f.rps, duration(f.p50), duration(f.p99))
				continue
			}
			fmt.Fprintf(w, "| %s | %s | %.0f | %s | %s | %.0f us | %.2f | %d MB |\n", work, v, f.rps, duration(f.p50), duration(f.p99), f.cpu,
				r.cpuRatio[work][v], f.memory>>10)
		}
	}
	fmt.Fprintln(w)
}

func duration(us float64) string {
	if us < 1000 {
		return fmt.Sprintf("%.0f us", us)
	}
	return fmt.Sprintf("%.1f ms", us/1000)
}

// ratios writes what a claim can rest on, medians of ratios within a round: CPU as times the relay's, the visitor's CPU as times this,
// and what a call takes longer as times what it takes longer with nginx.
func (r *results) ratios(w io.Writer) {
	for _, work := range r.works {
		ratio := r.cpuRatio[work]
		for _, v := range []string{passing, sealing, referring} {
			if _, ok := ratio[v]; !ok {
				continue
			}
			fmt.Fprintf(w, "RATIO %s %s x_relay=%.2f", work, v, ratio[v])
			if other, ok := ratio["visitor"]; ok {
				fmt.Fprintf(w, " visitor_x=%.1f", other/ratio[v])
			}
			if _, ok := ratio["nginx"]; ok {
				fmt.Fprintf(w, " added_p50_x_nginx=%.2f", r.p50Added[work][v]/r.p50Added[work]["nginx"])
			}
			fmt.Fprintln(w)
		}
	}
}

// lines writes what a program reads.
func (r *results) lines(w io.Writer) {
	for _, work := range r.works {
		for _, v := range r.variants {
			f, ok := r.median[work][v]
			if !ok {
				continue
			}
			fmt.Fprintf(w, "%s %s rps=%.0f p50_us=%.0f p99_us=%.0f cpu_us=%.0f rss_kb=%d\n", work, v, f.rps, f.p50, f.p99, f.cpu, f.memory)
		}
	}
}

// telemetryTable writes what tracing and audit add.
func (r *results) telemetryTable(w io.Writer) {
	rows := []string{traced, audited, tracedAudit}
	fmt.Fprintf(w, "| work | %s |\n|---|---|---|---|\n", strings.Join(rows, " | "))
	for _, work := range r.works {
		if _, ok := r.median[work][traced]; !ok {
			continue
		}
		fmt.Fprintf(w, "| %s |", work)
		for _, v := range rows {
			fmt.Fprintf(w, " %.2f |", r.cpuRatio[work][v]/r.cpuRatio[work][sealing])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

// coldTable writes the first opening beside later ones.
func (r *results) coldTable(w io.Writer) {
	if len(r.cold) == 0 {
		return
	}
	fmt.Fprintln(w, "| data keys from | history | wall | CPU | key-service calls | tries | allocations | allocated |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	for _, c := range r.cold {
		for _, o := range []struct {
			name string
			openings
		}{{"the first", c.cold}, {"later ones", c.warm}} {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %.0f | %.0f | %.0f | %.1f MB |\n",
				c.name, o.name, duration(o.wall), duration(o.cpu), o.keyCalls, o.tries, o.allocated.objects, o.allocated.bytes/(1<<20))
		}
	}
	fmt.Fprintln(w)
}

// coldLines writes the same for a program.
func (r *results) coldLines(w io.Writer) {
	for _, c := range r.cold {
		keys := strings.ReplaceAll(strings.ReplaceAll(c.name, ",", ""), " ", "_")
		for _, o := range []struct {
			name string
			openings
		}{{"first", c.cold}, {"later", c.warm}} {
			fmt.Fprintf(w, "%s %s/%s wall_us=%.0f cpu_us=%.0f key_calls=%.0f tries=%.0f allocs=%.0f\n",
				coldWork, keys, o.name, o.wall, o.cpu, o.keyCalls, o.tries, o.allocated.objects)
		}
	}
}
