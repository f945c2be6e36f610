package rewrite

import (
	"bytes"
	"context"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// partial seals a member of documents, and of memos one that need not be there.
const partial = `package temporal

request contains {"action": "seal", "fields": ["/patient", "/items/*/price"]} if input.payload.kind == "input"

request contains {"action": "seal", "fields": ["/patient"], "missing": "pass"} if input.payload.kind == "memo"

response contains {"action": "open"}
`

func documentOf(json string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(json)}
}

// TestDocumentsWithoutTheFields: what a rule names and the document lacks may stand there under another name, so all of it is
// sealed, and counted.
func TestDocumentsWithoutTheFields(t *testing.T) {
	t.Parallel()
	r := newRewriter(t, partial)
	m := r.Method(service + "StartWorkflowExecution")
	for name, tt := range map[string]struct {
		document             string
		notFound, notAnArray int
		whole                bool
	}{
		"fits":               {document: `{"patient":"SECRET","items":[{"price":"SECRET"}],"ward":"7"}`},
		"another name":       {`{"Patient":"SECRET","items":[{"price":"SECRET"}],"ward":"7"}`, 1, 0, true},
		"an object":          {`{"patient":"SECRET","items":{"x":{"price":"SECRET"}},"ward":"7"}`, 0, 1, true},
		"neither":            {`{"patient":"SECRET","ward":"7"}`, 1, 0, true},
		"not a document":     {`SECRET`, 0, 0, true},
		"a document in text": {`"{\"patient\":\"SECRET\"}"`, 1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			q := &workflowservice.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{documentOf(tt.document)}},
				Memo: &commonpb.Memo{Fields: map[string]*commonpb.Payload{"a": documentOf(`{"bed":"7"}`), "b": documentOf(`{"patient":"SECRET","bed":"7"}`)}}}
			raw := bytesOf(t, q)
			c := r.call(m)
			defer c.Done()
			out, err := c.Request(context.Background(), raw)
			if err != nil {
				t.Fatal(err)
			}
			if stats := c.RequestStats(); stats.NotFound != tt.notFound || stats.NotAnArray != tt.notAnArray || stats.Payloads != 3 {
				t.Errorf("counted: %+v", stats)
			}
			if bytes.Contains(out, []byte("SECRET")) || bytes.Contains(out, []byte(`"ward":"7"`)) == tt.whole || bytes.Count(out, []byte(`"bed":"7"`)) != 2 {
				t.Errorf("it becomes %q", out)
			}
		})
	}
}
