package server

import (
	"errors"

	"github.com/temporal-seal/temporal-seal/internal/audit"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// standInIdentity is who answers, where the worker's own identity is not known.
const standInIdentity = "temporal-seal"

const service = "/temporal.api.workflowservice.v1.WorkflowService/"

func transient(err error) bool {
	var e *rewrite.Error
	return errors.As(err, &e) && e.Transient() || errors.Is(err, audit.ErrUnrecorded)
}
