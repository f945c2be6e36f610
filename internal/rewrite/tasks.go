package rewrite

import (
	"crypto/sha256"
	"strings"
	"unsafe"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// task is what was known when a worker got a task.
type task struct {
	namespace string
	facts     facts
}

// taskMemory remembers the tasks that workers got, since the requests that answer
// them hold little more than a token. It is bounded; a fact of a forgotten task is
// unknown.
type taskMemory struct {
	tasks      *cache[[sha256.Size]byte, *task]
	namespaces *cache[string, string] // by id: names, as seen in polls
}

const (
	rememberedTasks      = 100_000
	rememberedNamespaces = 10_000
	// What a task is remembered with is up to callers, and each name may have 1,000 bytes.
	rememberedTaskBytes      = 48 << 20
	rememberedNamespaceBytes = 2 << 20
)

// taskSize is what a task takes beside its texts, with its place in the memory.
const taskSize = int(unsafe.Sizeof(task{})) + 200

// newTaskMemory returns an empty memory.
func newTaskMemory() *taskMemory {
	return &taskMemory{tasks: newCache[[sha256.Size]byte, *task](rememberedTasks, rememberedTaskBytes),
		namespaces: newCache[string, string](rememberedNamespaces, rememberedNamespaceBytes)}
}

// remember stores a task by its token.
func (m *taskMemory) remember(token []byte, t *task) {
	size := taskSize + len(t.namespace)
	for _, v := range t.facts.values {
		size += len(v)
	}
	m.tasks.add(sha256.Sum256(token), t, size)
	if id, _, ok := readToken(token); ok {
		m.namespaces.add(string(id), t.namespace, len(id)+len(t.namespace))
	}
}

// recall returns the task of a token; nil if it is unknown.
func (m *taskMemory) recall(token []byte) *task {
	t, _ := m.tasks.get(sha256.Sum256(token))
	return t
}

// namespaceOf returns the namespace of a token; "" if no poll showed it.
func (m *taskMemory) namespaceOf(token []byte) string {
	if id, _, ok := readToken(token); ok {
		name, _ := m.namespaces.get(string(id))
		return name
	}
	return ""
}

// readToken returns the namespace id and the facts in a task token of the server.
// Their format (temporal.server.api.token.v1.Task) is internal to the server, so the
// facts only count where the message and the memory have none. The values alias the
// token.
func readToken(b []byte) (namespaceID []byte, f facts, ok bool) {
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
			f.values[workflowID] = alias(r.Value())
		case 6:
			f.values[activityID] = alias(r.Value())
		case 7: // servers up to 1.32 leave it empty
			f.values[workflowType] = alias(r.Value())
		case 8:
			f.values[activityType] = alias(r.Value())
		}
	}
	for bit, v := range f.values {
		if numbered && v != "" {
			f.known |= 1 << bit
		}
	}
	return namespaceID, f, r.Err() == nil && len(namespaceID) == 36 // a UUID as text
}

// rememberTasks stores what is known of the tasks in a response, for the requests
// that will answer them.
func (c *call) rememberTasks(w *walk) {
	for i := range w.scopes {
		sc := &w.scopes[i]
		if !sc.task || sc.token.empty() {
			continue
		}
		t := &task{namespace: c.namespace, facts: w.facts(int32(i))}
		f := &t.facts
		for j := range f.values {
			f.values[j] = strings.Clone(f.values[j])
		}
		if f.known&policy.FactTaskQueue == 0 && c.facts[taskQueue] != "" && c.method.poll {
			f.set(policy.FactTaskQueue, c.facts[taskQueue])
		}
		if f.known&policy.FactWorkflowID == 0 || f.values[workflowID] == "" { // a standalone activity
			f.na = policy.FactWorkflowID | policy.FactWorkflowType
			f.known &^= f.na
		}
		if c.method.poll { // a poll names no workflow; the span of the call shows this one
			c.facts[workflowID], c.facts[workflowType] = f.values[workflowID], f.values[workflowType]
		}
		c.rewriter.tasks.remember(sc.token.of(w.buf), t)
	}
}
