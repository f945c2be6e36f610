package server

import (
	"slices"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

// A caller may reach certain namespaces only. Then each call has to name one of them, in the field that
// requests have for it; a worker's answer may leave the field empty, and belongs to the namespace of its
// task. A request without such a field concerns the whole cluster and is refused, also one of a method that
// only a later server has. Namespaces in which parts of a request act are checked when it is sealed: withinReach in
// rewrite/seal.go, by Session.Restrict. The exceptions follow.

// publicMethods need no namespace: SDKs and the command line connect with them, and they expose none.
var publicMethods = map[string]bool{
	workflowservice.WorkflowService_GetSystemInfo_FullMethodName:  true,
	workflowservice.WorkflowService_GetClusterInfo_FullMethodName: true,
}

// listNamespaces is answered with the namespaces that the caller reaches.
const listNamespaces = workflowservice.WorkflowService_ListNamespaces_FullMethodName

// namespaceID returns the id by which a request names a namespace instead of the field that is checked, if it
// does.
func namespaceID(fullMethod string, in []byte) (id string, err error) {
	switch fullMethod {
	case workflowservice.WorkflowService_DescribeNamespace_FullMethodName:
		var q workflowservice.DescribeNamespaceRequest
		err = proto.Unmarshal(in, &q)
		return q.GetId(), err
	case operatorservice.OperatorService_DeleteNamespace_FullMethodName:
		var q operatorservice.DeleteNamespaceRequest
		err = proto.Unmarshal(in, &q)
		return q.GetNamespaceId(), err
	}
	return "", nil
}

// authorize decides whether the caller may make this call.
func (c *call) authorize() error {
	if c.id.Namespaces == nil || publicMethods[c.method.full] || c.method.full == listNamespaces {
		return nil
	}
	if err := c.id.Authorize(c.session.Namespace()); err != nil {
		return err
	}
	switch id, err := namespaceID(c.method.full, c.request); {
	case err != nil:
		return newRefusal(codes.InvalidArgument, "the request cannot be read")
	case id != "":
		return newRefusal(codes.PermissionDenied, "listener %q serves certain namespaces only, so a namespace is named by its "+
			"name, not by its id", c.listener.Name)
	}
	c.session.Restrict(c.id.Reaches)
	return nil
}

// onlyReached leaves out of an answer, a list of namespaces, those that the caller does not reach. Pages may
// come out empty; the token for the next stays.
func onlyReached(answer *frame.Frame, id *auth.Identity) error {
	var list workflowservice.ListNamespacesResponse
	if err := proto.Unmarshal(answer.Bytes(), &list); err != nil {
		return newRefusal(codes.Internal, "the server's list of namespaces cannot be read")
	}
	list.Namespaces = slices.DeleteFunc(list.Namespaces, func(n *workflowservice.DescribeNamespaceResponse) bool {
		return !id.Reaches(n.GetNamespaceInfo().GetName())
	})
	reached, err := proto.Marshal(&list)
	answer.Free()
	*answer = frame.New(mem.SliceBuffer(reached))
	return err
}

// authorizePassed decides whether the caller may call a service that is forwarded as it is. A service that
// the config names may reach any namespace.
func authorizePassed(id *auth.Identity, service string) error {
	if id.Namespaces == nil || slices.Contains(alwaysPassed, service) {
		return nil
	}
	return newRefusal(codes.PermissionDenied, "listener %q serves certain namespaces only, and the proxy cannot determine "+
		"which of them a call to %s is about: use a listener without `namespaces`", id.Caller.Listener, service)
}
