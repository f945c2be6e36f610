package upstream

import (
	"context"

	"go.temporal.io/api/workflowservice/v1"
)

// CountWorkflows asks the upstream that serves a namespace how many workflows match a visibility query.
func CountWorkflows(ctx context.Context, upstreams []Config, namespace, query string) (int64, error) {
	router := NewRouter(upstreams, nil)
	defer router.Close()
	conn, err := router.Route(namespace)
	if err != nil {
		return 0, err
	}
	answer, err := workflowservice.NewWorkflowServiceClient(conn).CountWorkflowExecutions(ctx,
		&workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: query})
	return answer.GetCount(), err
}
