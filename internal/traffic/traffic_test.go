package traffic

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

func one(kind string, outcome rewrite.Outcome, n int) rewrite.Outcomes {
	return rewrite.Outcomes{{Kind: kind, Outcome: outcome, N: n}}
}

// TestLastHour: counts leave the last hour and stay in those since the start, whatever time lies between two calls.
func TestLastHour(t *testing.T) {
	table, now := New(), time.Unix(1_700_000_000, 0).Truncate(slice)
	table.now = func() time.Time { return now }
	check := func(what string, hour, total uint64) {
		t.Helper()
		rows := table.Rows()
		if len(rows) != 1 || rows[0].LastHour[rewrite.Sealed] != hour || rows[0].SinceStart[rewrite.Sealed] != total {
			t.Errorf("%s: %+v, want %d and %d", what, rows, hour, total)
		}
	}
	add := func(n int) { table.Add("shop", "Order", one("input", rewrite.Sealed, n), true) }
	add(2)
	now = now.Add(30 * time.Minute)
	add(3)
	check("within the hour", 5, 5)
	now = now.Add(35 * time.Minute)
	check("the first part has left", 3, 5)
	now = now.Add(24 * time.Hour)
	check("a day later", 0, 5)
	add(1)
	check("a call after a day", 1, 6)
	now = now.Add(-10 * time.Minute) // a clock that is set back loses nothing
	add(1)
	check("an earlier time", 2, 7)
}

// TestOutcomes: each outcome has a number of its own.
func TestOutcomes(t *testing.T) {
	table := New()
	for i, outcome := range rewrite.AllOutcomes {
		table.Add("shop", "Order", one("input", outcome, i+1), true)
	}
	counts := table.Rows()[0].SinceStart
	if len(counts) != len(rewrite.AllOutcomes) || len(numbers{}) != len(rewrite.AllOutcomes) {
		t.Errorf("%d counts", len(counts))
	}
	for i, outcome := range rewrite.AllOutcomes {
		if counts[outcome] != uint64(i+1) {
			t.Errorf("%s: %d", outcome, counts[outcome])
		}
	}
}

// TestBounds: names that callers make up take bounded memory, and nothing is lost of the sums.
func TestBounds(t *testing.T) {
	table, long, sum := New(), strings.Repeat("x", 10_000), 0
	add := func(ns, workflowType string, known bool) {
		table.Add(ns, workflowType, one("input", rewrite.Sealed, 1), known)
		sum++
	}
	add("invented", "Order", false)
	for i := range 3 * maxNamespaces {
		for j := range 3 {
			add(fmt.Sprint(i, long), fmt.Sprint(j, long), true)
		}
	}
	for i := range 2 * maxOfNamespace {
		add(fmt.Sprint(0, long), fmt.Sprint("more", i), true)
	}
	for i := range 2 * maxRows {
		add(fmt.Sprint(i%maxNamespaces, long), fmt.Sprint("many", i), true)
	}
	rows, namespaces, counted := table.Rows(), map[string]int{}, uint64(0)
	for _, r := range rows {
		namespaces[r.Namespace]++
		counted += r.SinceStart[rewrite.Sealed]
		if len(r.Namespace) > maxName+3 || len(r.WorkflowType) > maxName+3 {
			t.Fatalf("a name of %d bytes", len(r.Namespace)+len(r.WorkflowType))
		}
		if r.Namespace == "invented" {
			t.Error("a namespace that the server does not know has a row")
		}
	}
	if len(namespaces) > maxNamespaces+1 || len(rows) > maxRows+maxNamespaces+1 || counted != uint64(sum) {
		t.Errorf("%d namespaces, %d rows, %d of %d counted", len(namespaces), len(rows), counted, sum)
	}
	for ns, n := range namespaces {
		if n > maxOfNamespace+1 {
			t.Errorf("%.20s: %d rows", ns, n)
		}
	}
	if namespaces[Other] == 0 {
		t.Error("nothing is counted as other")
	}
}

// TestTotals: named namespaces have sums of their own from the start, also where the table is full, and all others are one.
func TestTotals(t *testing.T) {
	table := New("clinic", "empty")
	if !table.Has("clinic") || table.Has("shop") {
		t.Error("named namespaces are known, and others are not")
	}
	for i := range 2 * maxNamespaces {
		table.Add(fmt.Sprint("n", i), "Order", one("input", rewrite.Sealed, 1), true)
	}
	table.Add("clinic", "Admission", one("input", rewrite.Sealed, 3), true)
	table.Add("clinic", "Release", one("memo", rewrite.Passed, 2), false)
	totals := table.Totals([]string{"clinic", "empty"})
	if clinic := totals["clinic"]; clinic[rewrite.Sealed] != 3 || clinic[rewrite.Passed] != 2 {
		t.Errorf("%v", clinic)
	}
	if len(totals) != 3 || totals["empty"][rewrite.Sealed] != 0 || totals[Other][rewrite.Sealed] != 2*maxNamespaces {
		t.Errorf("%v", totals)
	}
	if !table.Has("n0") || len(table.Rows()) > maxNamespaces+2 {
		t.Errorf("%d rows", len(table.Rows()))
	}
}

// TestConcurrent: no count is lost between goroutines.
func TestConcurrent(t *testing.T) {
	table := New()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 1000 {
				table.Add("shop", fmt.Sprint(i%7), one("input", rewrite.Opened, 1), true)
				if i%100 == 0 {
					table.Rows()
				}
			}
		})
	}
	all.Wait()
	sum := uint64(0)
	for _, r := range table.Rows() {
		sum += r.SinceStart[rewrite.Opened]
	}
	if sum != 8000 {
		t.Errorf("%d of 8000", sum)
	}
	(*Table)(nil).Add("shop", "", one("input", rewrite.Opened, 1), true) // counts nothing
}

// TestRefusals: the same refusal is one entry, the last one comes first, and old ones go.
func TestRefusals(t *testing.T) {
	var r Refusals
	at := time.Unix(1_700_000_000, 0)
	for i := range 2 * maxRefusals {
		at = at.Add(time.Second)
		r.Add("shop", fmt.Sprint("Method", i), "PERMISSION_DENIED", "denied", at)
		r.Add("shop", "PollWorkflowTaskQueue", "UNAVAILABLE", "unavailable", at)
	}
	list := r.List()
	if first := list[0]; len(list) != maxRefusals || first.Method != "PollWorkflowTaskQueue" || first.Count != 2*maxRefusals ||
		!first.Last.Equal(at) || first.First.Equal(at) || list[1].Method != fmt.Sprint("Method", 2*maxRefusals-1) || list[1].Count != 1 {
		t.Errorf("%d entries: %+v", len(list), list[:2])
	}
}

func BenchmarkAdd(b *testing.B) {
	table := New()
	outcomes := append(one("input", rewrite.Sealed, 1), one("header", rewrite.Passed, 1)...)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			table.Add("shop", "Order", outcomes, true)
		}
	})
}
