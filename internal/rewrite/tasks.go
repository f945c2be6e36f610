package rewrite

import (
	"crypto/sha256"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// task is what was known when a worker got a task.
type task struct {
	namespace string
	values    [5]string // indexed by bitOf
	known, na policy.FactSet
}

// set records a fact.
func (t *task) set(fact policy.FactSet, value string) {
	t.values[bitOf(fact)] = value
	t.known |= fact
}

// taskMemory remembers the tasks that workers got, since the requests that answer
// them hold little more than a token. It is bounded; a fact of a forgotten task is
// unknown.
type taskMemory struct {
	tasks      *lru.Cache[[sha256.Size]byte, *task]
	namespaces *lru.Cache[string, string] // by id: names, as seen in polls
}

const (
	rememberedTasks      = 100_000
	rememberedNamespaces = 10_000
)

// newTaskMemory returns an empty memory.
func newTaskMemory() *taskMemory {
	tasks, _ := lru.New[[sha256.Size]byte, *task](rememberedTasks) // an error is possible for sizes below 1 only
	namespaces, _ := lru.New[string, string](rememberedNamespaces)
	return &taskMemory{tasks: tasks, namespaces: namespaces}
}

// remember stores a task by its token.
func (m *taskMemory) remember(token []byte, t *task) {
	m.tasks.Add(sha256.Sum256(token), t)
	if id, _, ok := readToken(token); ok {
		m.namespaces.Add(string(id), t.namespace)
	}
}

// recall returns the task of a token; nil if it is unknown.
func (m *taskMemory) recall(token []byte) *task {
	t, _ := m.tasks.Get(sha256.Sum256(token))
	return t
}

// namespaceOf returns the namespace of a token; "" if no poll showed it.
func (m *taskMemory) namespaceOf(token []byte) string {
	if id, _, ok := readToken(token); ok {
		name, _ := m.namespaces.Get(string(id))
		return name
	}
	return ""
}

// readToken returns the namespace id and the facts in a task token of the server.
// Their format (temporal.server.api.token.v1.Task) is internal to the server, so the
// facts only count where the message and the memory have none. The values alias the
// token.
func readToken(b []byte) (namespaceID []byte, t task, ok bool) {
	numbered := false // tokens of queries and Nexus tasks have other fields of the same numbers, but no event number
	r := wire.Read(b)
	for r.Next() {
		if !r.Bytes() {
			numbered = numbered || r.Number() == 4 || r.Number() == 5
			continue
		}
		switch r.Number() {
		case 1:
			namespaceID = r.Value()
		case 2:
			t.values[bitOf(policy.FactWorkflowID)] = alias(r.Value())
		case 6:
			t.values[bitOf(policy.FactActivityID)] = alias(r.Value())
		case 7: // servers up to 1.32 leave it empty
			t.values[bitOf(policy.FactWorkflowType)] = alias(r.Value())
		case 8:
			t.values[bitOf(policy.FactActivityType)] = alias(r.Value())
		}
	}
	for bit, v := range t.values {
		if numbered && v != "" {
			t.known |= 1 << bit
		}
	}
	return namespaceID, t, r.Err() == nil && len(namespaceID) == 36 // a UUID as text
}

// rememberTasks stores what is known of the tasks in a response, for the requests
// that will answer them.
func (c *call) rememberTasks(w *walk) {
	for i := range w.scopes {
		sc := &w.scopes[i]
		if !sc.task || sc.token.empty() {
			continue
		}
		t := &task{namespace: strings.Clone(c.namespace)}
		for j := int32(i); j >= 0; j = w.scopes[j].parent {
			s := &w.scopes[j]
			for fresh := s.known &^ t.known; fresh != 0; fresh &= fresh - 1 {
				t.values[bitOf(fresh)] = string(s.facts[bitOf(fresh)].of(w.buf))
			}
			t.known |= s.known
		}
		if t.known&policy.FactTaskQueue == 0 && c.taskQueue != "" && c.method.poll {
			t.set(policy.FactTaskQueue, c.taskQueue)
		}
		if t.known&policy.FactWorkflowID == 0 || t.values[0] == "" { // a standalone activity
			t.na = policy.FactWorkflowID | policy.FactWorkflowType
			t.known &^= t.na
		}
		if c.method.poll { // a poll names no workflow; the span of the call shows this one
			c.workflowID, c.workflowType = t.values[0], t.values[1]
		}
		c.rewriter.tasks.remember(sc.token.of(w.buf), t)
	}
}
