package clinic

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// Admission admits a patient on behalf of the user whose token it was given.
func Admission(ctx workflow.Context, in Admit) (Admitted, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 10 * time.Second,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 300 * time.Millisecond, MaximumAttempts: 5},
	})
	user := OnBehalf{Token: in.Token, PatientID: in.PatientID}

	var out Admitted
	var coverage Coverage
	if err := workflow.ExecuteActivity(ctx, "CheckCoverage", user).Get(ctx, &coverage); err != nil {
		return out, err
	}
	out.Covered = coverage.Covered

	var lab LabRecord
	if err := workflow.ExecuteActivity(ctx, "FetchLabResults", user).Get(ctx, &lab); err != nil {
		return out, err
	}
	if err := workflow.ExecuteActivity(ctx, "BookScan", Scan{Token: in.Token, Lab: lab}).Get(ctx, nil); err != nil {
		return out, err
	}
	if err := workflow.ExecuteActivity(ctx, "AssignBed", in.Ward).Get(ctx, &out.Bed); err != nil {
		return out, err
	}

	// The ward confirms with a signal that the bed is ready.
	var ready Bed
	workflow.GetSignalChannel(ctx, "bed-ready").Receive(ctx, &ready)
	out.Bed = ready
	return out, nil
}
