package leaks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"
)

// What is close to the server's limits: there sealing must not break what passed in clear.

func init() {
	scenarios["Large"] = large
	scenarios["ManyPayloads"] = manyPayloads
}

// large sends values that the server takes in clear and would refuse for what sealing adds to them. Workers of the Go
// SDK keep to the limits that the namespace announces, which the proxy lowers by what it adds; its clients do not ask, as
// the Java SDK's workers don't.
func large(e *env) {
	const limit = 2 << 20
	big := e.secret("large value")
	big += hexNoise(limit - 60 - len(big))
	told, err := e.client.WorkflowService().DescribeNamespace(e.ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	e.ok(err, "describe namespace")
	room := int(told.NamespaceInfo.Limits.BlobSizeLimitError) - 60
	e.worker(
		flow("Large", func(ctx workflow.Context, s string) (string, error) {
			var got string
			err := workflow.ExecuteActivity(activityOptions(ctx), "Large", s[:room]).Get(ctx, &got)
			return got, err
		}),
		act("Large", func(_ context.Context, s string) (string, error) { return s, nil }),
	)
	e.returns(e.start(client.StartWorkflowOptions{}, "Large", big), big[:room])
}

// manyPayloads: a task's completion that is under the frontend's limit of 4 MiB in clear, by less than what sealing
// adds to 1,400 payloads.
func manyPayloads(e *env) {
	note := e.secret("side effects")
	note += hexNoise(2780 - len(note))
	e.worker(flow("Many", func(ctx workflow.Context) (int, error) {
		for i := range 1400 {
			var got string
			if err := workflow.SideEffect(ctx, func(workflow.Context) any { return note }).Get(&got); err != nil || got != note {
				return i, fmt.Errorf("side effect did not arrive: %w", err)
			}
		}
		return 1400, workflow.Sleep(ctx, time.Millisecond)
	}))
	e.returns(e.start(client.StartWorkflowOptions{}, "Many"), 1400)
}

// hexNoise is a text of n bytes that compresses by half.
func hexNoise(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)[:n]
}
