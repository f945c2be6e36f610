package rewrite

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// factOf tells which fact a field holds: a string itself, or a message with
// the name as its first field.
func factOf(fd protoreflect.FieldDescriptor) policy.FactSet {
	if fd.IsList() || fd.IsMap() {
		return 0
	}
	if fd.Message() == nil {
		switch fd.Name() {
		case "workflow_id":
			return policy.FactWorkflowID
		case "activity_id":
			return policy.FactActivityID
		}
		return 0
	}
	switch fd.Message().Name() {
	case "WorkflowExecution":
		if fd.Name() == "workflow_execution" || fd.Name() == "execution" {
			return policy.FactWorkflowID
		}
	case "WorkflowType":
		if fd.Name() == "workflow_type" || fd.Name() == "type" {
			return policy.FactWorkflowType
		}
	case "ActivityType":
		if fd.Name() == "activity_type" {
			return policy.FactActivityType
		}
	case "TaskQueue":
		if fd.Name() == "task_queue" || fd.Name() == "workflow_execution_task_queue" {
			return policy.FactTaskQueue
		}
	}
	return 0
}

// notApplicable says which facts a payload at this place has not, as opposed
// to those that the message merely fails to tell.
func (c *compiler) notApplicable(path, kind string) policy.FactSet {
	const workflow = policy.FactWorkflowID | policy.FactWorkflowType | policy.FactTaskQueue
	const activity = policy.FactActivityID | policy.FactActivityType
	var na policy.FactSet
	switch {
	case strings.Contains(c.method, "ActivityTask"), strings.Contains(c.method, "ActivityExecution"),
		strings.Contains(path, "schedule_activity_task"), strings.Contains(path, "activity_tasks"):
	case kind == policy.KindMarker: // a local activity's result stands in a marker that does not tell the type
	default:
		na |= activity
	}
	switch {
	case strings.Contains(c.method, "ActivityExecution"), strings.Contains(c.method, "NexusOperationExecution"):
		na |= policy.FactWorkflowID | policy.FactWorkflowType
	case strings.Contains(c.method, "Nexus"), strings.Contains(c.method, "Deployment"):
		na |= workflow
	case strings.Contains(c.method, "Schedule") && !strings.Contains(path, "start_workflow"):
		na |= workflow
	}
	return na
}
