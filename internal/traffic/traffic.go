// Package traffic counts what became of payloads, by namespace, workflow type and kind, since the start and in the last
// hour, and keeps the last refusals. It never holds a payload or a text from one. Names are those of callers, so their
// number and their lengths are bounded.
package traffic

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

const (
	// maxNamespaces bounds the namespaces, maxOfNamespace the rows of each, and maxRows all rows. What is beyond counts as Other.
	maxNamespaces  = 100
	maxOfNamespace = 500
	maxRows        = 4000
	// maxName bounds a name in bytes.
	maxName = 256
	// slice is the part of the last hour that is counted together, and slices how many of them are kept: the current one and
	// those of the hour before it.
	slice  = 5 * time.Minute
	sliced = int(time.Hour/slice) + 1
)

// Other is the name under which everything beyond the bounds is counted.
const Other = "other"

// Counts are numbers of payloads, by outcome.
type Counts map[rewrite.Outcome]uint64

// Row is what became of the payloads of one kind in workflows of one type.
type Row struct {
	Namespace string `json:"namespace"`
	// WorkflowType is empty where calls do not tell it.
	WorkflowType string `json:"workflow_type"`
	Kind         string `json:"kind"`
	LastHour     Counts `json:"last_hour"`
	SinceStart   Counts `json:"since_start"`
}

// numbers are counts, by place in rewrite.AllOutcomes.
type numbers [len(rewrite.AllOutcomes)]uint64

// row counts for one Row.
type row struct {
	mu     sync.Mutex
	total  numbers
	parts  [sliced]numbers // a ring
	newest int64           // number of the slice that was counted last
}

type rowKey struct{ workflowType, kind string }

// namespace holds the rows of one namespace. Its maps are replaced and never changed, so that counting needs no lock.
type namespace struct {
	rows atomic.Pointer[map[rowKey]*row]
}

// Table counts payloads. It is safe for concurrent use; a nil Table counts nothing.
type Table struct {
	Refusals   Refusals
	now        func() time.Time
	namespaces atomic.Pointer[map[string]*namespace]
	mu         sync.Mutex // held while a namespace or a row is added
	rows       int
}

// New returns an empty table. Payloads of the named namespaces never count as those of Other.
func New(named ...string) *Table {
	t := &Table{now: time.Now}
	all := map[string]*namespace{}
	for _, name := range named {
		all[name] = newNamespace()
	}
	t.namespaces.Store(&all)
	return t
}

func newNamespace() *namespace {
	of := new(namespace)
	of.rows.Store(&map[rowKey]*row{})
	return of
}

// Has reports whether the table counts a namespace by its name: the server knows it, or it was named.
func (t *Table) Has(name string) bool { return (*t.namespaces.Load())[cut(name)] != nil }

// Totals returns the counts since the start of some namespaces, and of all others together under Other.
func (t *Table) Totals(named []string) map[string]Counts {
	sums := map[string]*numbers{Other: {}}
	for _, name := range named {
		sums[name] = &numbers{}
	}
	for ns, of := range *t.namespaces.Load() {
		sum := sums[ns]
		if sum == nil {
			sum = sums[Other]
		}
		for _, r := range *of.rows.Load() {
			r.mu.Lock()
			for i, n := range r.total {
				sum[i] += n
			}
			r.mu.Unlock()
		}
	}
	totals := map[string]Counts{}
	for ns, sum := range sums {
		totals[ns] = sum.counts()
	}
	return totals
}

// Add counts the outcomes of one message. known reports whether the namespace may be added to the table: only one that the
// server knows should be, or callers could fill the table with names that they make up.
func (t *Table) Add(ns, workflowType string, outcomes rewrite.Outcomes, known bool) {
	if t == nil || len(outcomes) == 0 {
		return
	}
	part := t.now().UnixNano() / int64(slice)
	of := t.namespace(ns, known)
	for _, c := range outcomes {
		t.row(of, workflowType, c.Kind).add(part, c.Outcome, uint64(c.N))
	}
}

func (r *row) add(part int64, outcome rewrite.Outcome, n uint64) {
	i := slices.Index(rewrite.AllOutcomes[:], outcome)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forward(part)
	r.total[i] += n
	r.parts[part%int64(sliced)][i] += n
}

// forward empties the slices between the newest and another one.
func (r *row) forward(part int64) {
	for at := max(r.newest+1, part-int64(sliced)+1); at <= part; at++ {
		r.parts[at%int64(sliced)] = numbers{}
	}
	r.newest = max(r.newest, part)
}

// namespace returns the rows of a namespace.
func (t *Table) namespace(name string, known bool) *namespace {
	name = cut(name)
	if of := (*t.namespaces.Load())[name]; of != nil {
		return of
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := *t.namespaces.Load()
	if all[name] == nil && (!known || len(all) >= maxNamespaces) {
		name = Other
	}
	if of := all[name]; of != nil {
		return of
	}
	of := newNamespace()
	all = maps.Clone(all)
	all[strings.Clone(name)] = of
	t.namespaces.Store(&all)
	return of
}

// row returns the counts of a workflow type and kind.
func (t *Table) row(of *namespace, workflowType, kind string) *row {
	key := rowKey{cut(workflowType), kind}
	if r := (*of.rows.Load())[key]; r != nil {
		return r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := *of.rows.Load()
	if all[key] == nil && (len(all) >= maxOfNamespace || t.rows >= maxRows) {
		key = rowKey{Other, Other} // one more for each namespace
	}
	if r := all[key]; r != nil {
		return r
	}
	key.workflowType = strings.Clone(key.workflowType) // it may alias a message
	r := new(row)
	all = maps.Clone(all)
	all[key] = r
	of.rows.Store(&all)
	t.rows++
	return r
}

// cut shortens a name that is too long.
func cut(name string) string {
	if len(name) <= maxName {
		return name
	}
	return strings.ToValidUTF8(name[:maxName], "") + "..."
}

// Rows lists what was counted, sorted by name.
func (t *Table) Rows() []Row {
	rows := []Row{}
	part := t.now().UnixNano() / int64(slice)
	for ns, of := range *t.namespaces.Load() {
		for key, r := range *of.rows.Load() {
			total, hour := r.read(part)
			rows = append(rows, Row{ns, key.workflowType, key.kind, hour.counts(), total.counts()})
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.WorkflowType, b.WorkflowType), cmp.Compare(a.Kind, b.Kind))
	})
	return rows
}

// read returns the counts since the start and those of the last hour.
func (r *row) read(part int64) (total, hour numbers) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forward(part)
	for _, p := range r.parts {
		for i, n := range p {
			hour[i] += n
		}
	}
	return r.total, hour
}

func (n numbers) counts() Counts {
	c := make(Counts, len(n))
	for i, count := range n {
		c[rewrite.AllOutcomes[i]] = count
	}
	return c
}
