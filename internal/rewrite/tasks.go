package rewrite

import (
	"crypto/sha256"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// rememberTasks keeps what is known of the tasks in an answer, for the requests
// that will answer them.
func (c *call) rememberTasks(w *walk) {
	for i := range w.scopes {
		sc := &w.scopes[i]
		if !sc.task || sc.token.empty() {
			continue
		}
		t := &task{namespace: strings.Clone(c.namespace)}
		for j := int32(i); j >= 0; j = w.scopes[j].parent {
			for bit := range t.values {
				fact := policy.FactSet(1) << bit
				if w.scopes[j].known&fact != 0 && t.known&fact == 0 {
					t.set(bit, string(w.scopes[j].facts[bit].of(w.buf)))
				}
			}
		}
		if t.known&policy.FactTaskQueue == 0 && c.taskQueue != "" && c.method.poll {
			t.set(2, c.taskQueue)
		}
		if t.known&policy.FactWorkflowID == 0 || t.values[0] == "" { // a standalone activity
			t.na = policy.FactWorkflowID | policy.FactWorkflowType
			t.known &^= t.na
		}
		if c.method.poll { // the poll did not know what it would be handed; its span is told
			c.workflowID, c.workflowType = t.values[0], t.values[1]
		}
		c.rewriter.tasks.remember(sc.token.of(w.buf), t)
	}
}

// task is what was known when a worker was handed a task.
type task struct {
	namespace string
	values    [5]string // in the order of the policy.Fact bits
	known, na policy.FactSet
}

func (t *task) set(bit int, value string) {
	t.values[bit] = value
	t.known |= 1 << bit
}

// taskMemory remembers the tasks handed out, since their answers carry a token
// and little else. It is bounded: what was forgotten counts as unknown.
type taskMemory struct {
	tasks      *lru.Cache[[sha256.Size]byte, *task]
	namespaces *lru.Cache[string, string] // namespace id -> name, as polls showed it
}

const (
	rememberedTasks      = 100_000
	rememberedNamespaces = 10_000
)

func newTaskMemory() *taskMemory {
	tasks, _ := lru.New[[sha256.Size]byte, *task](rememberedTasks) // fails for sizes below 1 only
	namespaces, _ := lru.New[string, string](rememberedNamespaces)
	return &taskMemory{tasks: tasks, namespaces: namespaces}
}

func (m *taskMemory) remember(token []byte, t *task) {
	m.tasks.Add(sha256.Sum256(token), t)
	if tok, ok := readToken(token); ok {
		m.namespaces.Add(string(tok.namespaceID), t.namespace)
	}
}

func (m *taskMemory) recall(token []byte) *task {
	t, _ := m.tasks.Get(sha256.Sum256(token))
	return t
}

// namespaceOf tells which namespace a token is of, if it was learnt.
func (m *taskMemory) namespaceOf(token []byte) string {
	if tok, ok := readToken(token); ok {
		name, _ := m.namespaces.Get(string(tok.namespaceID))
		return name
	}
	return ""
}

// token is what the server's own task token tells. Its form
// (temporal.server.api.token.v1.Task) is an internal of the server, so what
// it tells is used only where the message and the memory tell nothing.
type token struct {
	namespaceID []byte
	facts       [5][]byte
}

func readToken(b []byte) (t token, ok bool) {
	numbered := false // tokens of queries and Nexus tasks have other fields of the same numbers, but no event number
	r := wire.Read(b)
	for r.Next() {
		if !r.Bytes() {
			numbered = numbered || r.Number() == 4 || r.Number() == 5
			continue
		}
		switch r.Number() {
		case 1:
			t.namespaceID = r.Value()
		case 2:
			t.facts[0] = r.Value() // workflow id
		case 6:
			t.facts[3] = r.Value() // activity id
		case 7:
			t.facts[1] = r.Value() // workflow type; servers up to 1.32 leave it empty
		case 8:
			t.facts[4] = r.Value() // activity type
		}
	}
	if !numbered {
		t.facts = [5][]byte{}
	}
	return t, r.Err() == nil && len(t.namespaceID) == 36 // a UUID as text
}
