package clinic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

// RunClient is the client's program: it admits the patient, lets the ward confirm the bed, and waits for the result.
func RunClient(ctx context.Context, hostPort string, story Story, out io.Writer) error {
	c, err := client.DialContext(ctx, client.Options{HostPort: hostPort, Namespace: Namespace, Logger: errorLog()})
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer c.Close()
	log := json.NewEncoder(out)
	user, err := Verify(story.Token, story.JWTKey)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                    story.WorkflowID,
		TaskQueue:             TaskQueue,
		Memo:                  map[string]any{"desk": "emergency"},
		TypedSearchAttributes: temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(WardAttribute).ValueSet(story.Ward)),
	}, "Admission", Admit{PatientID: story.PatientID, Ward: story.Ward, Token: story.Token})
	if err != nil {
		return fmt.Errorf("client: start the workflow: %w", err)
	}
	log.Encode(Report{Who: "client", What: "start", Text: user + " admits patient " + story.PatientID + " (workflow " + story.WorkflowID + ")"})
	if err := c.SignalWorkflow(ctx, story.WorkflowID, run.GetRunID(), "bed-ready", Bed{Ward: story.Ward, Bed: 7}); err != nil {
		return fmt.Errorf("client: signal the workflow: %w", err)
	}
	var result Admitted
	if err := run.Get(ctx, &result); err != nil {
		return fmt.Errorf("client: the workflow failed: %w", err)
	}
	log.Encode(Report{Who: "client", What: "result", Got: result, Text: fmt.Sprintf("admitted: ward %s, bed %d", result.Bed.Ward, result.Bed.Bed)})
	return nil
}
