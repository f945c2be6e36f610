package upstream

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestLearn fetches descriptors from a frontend's own reflection service, over the connections that carry raw
// frames.
func TestLearn(t *testing.T) {
	f := &frontend{}
	startFrontend(t, f)
	var learnt []*descriptorpb.FileDescriptorProto
	Learn(testContext(t), []Config{{Address: f.address}}, func(files []*descriptorpb.FileDescriptorProto) (bool, error) {
		learnt = append(learnt, files...)
		return false, nil
	}, slog.New(slog.DiscardHandler))
	all, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: learnt})
	if err != nil {
		t.Fatalf("the files do not belong together: %v", err)
	}
	if _, err := all.FindDescriptorByName("temporal.api.workflowservice.v1.WorkflowService"); err != nil {
		t.Error(err)
	}
}

// TestLearnFromSilence: an upstream that is down, or has no reflection, changes nothing and stops nobody.
func TestLearnFromSilence(t *testing.T) {
	bare := grpc.NewServer()
	defer bare.Stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = bare.Serve(l) }()
	join := func([]*descriptorpb.FileDescriptorProto) (bool, error) {
		t.Error("something was learnt")
		return false, errors.New("unexpected")
	}
	Learn(testContext(t), []Config{{Address: l.Addr().String()}}, join, slog.New(slog.DiscardHandler))
}
