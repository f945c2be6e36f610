package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

const (
	learnTimeout = 5 * time.Second
	learnAgain   = 10 * time.Minute // a server may be upgraded under a running proxy
	mostFiles    = 1000             // an upstream that goes on for ever is not listened to for ever
)

var rewritten = []*grpc.ServiceDesc{&workflowservice.WorkflowService_ServiceDesc, &operatorservice.OperatorService_ServiceDesc}

// Join takes descriptors of an upstream, and tells whether they brought anything new.
type Join func([]*descriptorpb.FileDescriptorProto) (bool, error)

// Learn asks every upstream with a fixed address by gRPC reflection for the RPCs and messages that it knows, and hands
// them to join. What a newer server knows is then sealed like the rest, before the proxy itself is upgraded. An
// upstream that does not answer, or knows no reflection, changes nothing.
func Learn(ctx context.Context, configs []Config, join Join, log *slog.Logger) {
	u := NewRouter(configs, Options{})
	defer u.Close()
	fixed, err := u.fixed()
	if err != nil {
		log.Warn("upstreams are not asked for their descriptors", "error", err)
		return
	}
	for _, conns := range fixed {
		conns.learn(ctx, join, log)
	}
}

// LearnAgain repeats Learn every ten minutes until ctx ends.
func LearnAgain(ctx context.Context, configs []Config, join Join, log *slog.Logger) {
	for tick := time.NewTicker(learnAgain); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			Learn(ctx, configs, join, log)
		}
	}
}

func (c *Pool) learn(ctx context.Context, join Join, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	files, err := c.describe(ctx)
	if err == nil {
		var changed bool
		if changed, err = join(files); changed {
			log.Info("the upstream knows more than this release; what it knows is sealed as well", "upstream", c.config.Address)
		}
	}
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		log.Debug("the upstream does not tell its descriptors", "upstream", c.config.Address)
	default:
		log.Warn("the upstream's descriptors were not learnt; fields unknown to this release stay unknown", "upstream", c.config.Address, "error", err)
	}
}

// describe fetches the files of the rewritten services, with all that they import.
func (c *Pool) describe(ctx context.Context) ([]*descriptorpb.FileDescriptorProto, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(c).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	d := described{stream: stream, files: make(map[string]*descriptorpb.FileDescriptorProto)}
	for _, service := range rewritten {
		if err := d.ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: service.ServiceName}}); err != nil && status.Code(err) != codes.NotFound { // not every server has both
			return nil, err
		}
	}
	return d.all()
}

// described are the files that an upstream has told of so far.
type described struct {
	stream grpc.BidiStreamingClient[reflectionpb.ServerReflectionRequest, reflectionpb.ServerReflectionResponse]
	files  map[string]*descriptorpb.FileDescriptorProto
	order  []*descriptorpb.FileDescriptorProto
}

func (d *described) ask(request *reflectionpb.ServerReflectionRequest) error {
	err := d.stream.Send(request)
	if err != nil && !errors.Is(err, io.EOF) { // at the end of the stream Recv tells why
		return err
	}
	answer, err := d.stream.Recv()
	if err != nil {
		return err
	}
	if e := answer.GetErrorResponse(); e != nil {
		return status.Error(codes.Code(e.GetErrorCode()), e.GetErrorMessage())
	}
	for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(raw, f); err != nil {
			return fmt.Errorf("a file descriptor of the upstream's: %w", err)
		}
		if d.files[f.GetName()] == nil {
			d.files[f.GetName()] = f
			d.order = append(d.order, f)
		}
	}
	return nil
}

// all fetches what is imported and was not sent along.
func (d *described) all() ([]*descriptorpb.FileDescriptorProto, error) {
	for i := 0; i < len(d.order); i++ {
		for _, name := range d.order[i].GetDependency() {
			if d.files[name] != nil {
				continue
			}
			if len(d.order) > mostFiles {
				return nil, fmt.Errorf("the upstream describes more than %d files", mostFiles)
			}
			if err := d.ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: name}}); err != nil {
				return nil, err
			}
			if d.files[name] == nil {
				return nil, fmt.Errorf("the upstream does not tell the file %s, which %s imports", name, d.order[i].GetName())
			}
		}
	}
	return d.order, nil
}
