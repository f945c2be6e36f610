package scan

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
)

// ReadState returns the state that a file holds; without the file, that of a scan which has not begun.
func ReadState(file string) (*State, error) {
	state := new(State)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err == nil {
		err = json.Unmarshal(text, state)
	}
	return state, err
}

// Save writes the state to a file, whole or not at all.
func (s *State) Save(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Count returns how many workflows of a namespace a visibility query matches.
func Count(ctx context.Context, conn grpc.ClientConnInterface, namespace, query string) (int64, error) {
	client := workflowservice.NewWorkflowServiceClient(conn)
	answer, err := client.CountWorkflowExecutions(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: query})
	return answer.GetCount(), err
}

// Namespaces lists the namespaces of a server, apart from its own.
func Namespaces(ctx context.Context, conn grpc.ClientConnInterface) (names []string, err error) {
	client := workflowservice.NewWorkflowServiceClient(conn)
	for token := []byte(nil); ; {
		page, err := client.ListNamespaces(ctx, &workflowservice.ListNamespacesRequest{PageSize: 100, NextPageToken: token})
		if err != nil {
			return nil, err
		}
		for _, n := range page.GetNamespaces() {
			if name := n.GetNamespaceInfo().GetName(); name != "temporal-system" {
				names = append(names, name)
			}
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			return names, nil
		}
	}
}
