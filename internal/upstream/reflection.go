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

	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

const (
	learnTimeout = 5 * time.Second
	learnAgain   = 10 * time.Minute // a server may be upgraded under a running proxy
	// These bound the memory that a hostile upstream can fill.
	maxFiles = 1000
	maxBytes = 8 << 20 // of descriptors; those of a release have 300 KB
)

// Join takes the descriptors of an upstream, and reports whether they contain anything new.
type Join func([]*descriptorpb.FileDescriptorProto) (bool, error)

// Learn asks every upstream with a fixed address by gRPC reflection for the RPCs and messages that it knows,
// and passes them to join. So what a newer server knows is sealed like the rest before the proxy itself is
// upgraded. An upstream that does not answer, or has no reflection, changes nothing.
func Learn(ctx context.Context, configs []Config, join Join, log *slog.Logger) {
	router := NewRouter(configs, nil)
	defer router.Close()
	pools, err := router.fixed()
	if err != nil {
		log.Warn("upstreams are not asked for their descriptors", "error", err)
		return
	}
	for _, pool := range pools {
		pool.learn(ctx, join, log)
	}
}

// LearnAgain repeats Learn every ten minutes until ctx ends.
func LearnAgain(ctx context.Context, configs []Config, join Join, log *slog.Logger) {
	for backoff.Sleep(ctx, learnAgain) == nil {
		Learn(ctx, configs, join, log)
	}
}

func (p *Pool) learn(ctx context.Context, join Join, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	files, err := p.describe(ctx)
	if err == nil {
		var changed bool
		if changed, err = join(files); changed {
			log.Info("the upstream knows more than this release; what it knows is sealed as well", "upstream", p.config.Address)
		}
	}
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		log.Debug("the upstream does not describe its API by reflection", "upstream", p.config.Address)
	default:
		log.Warn("the upstream's descriptors were not learnt; fields unknown to this release stay unknown",
			"upstream", p.config.Address, "error", err)
	}
}

// describe returns the files of the rewritten services and of all that they import.
func (p *Pool) describe(ctx context.Context) ([]*descriptorpb.FileDescriptorProto, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(p).ServerReflectionInfo(ctx, grpc.MaxCallRecvMsgSize(maxBytes))
	if err != nil {
		return nil, err
	}
	d := descriptors{stream: stream, known: map[string]bool{}}
	for _, service := range []string{
		workflowservice.WorkflowService_ServiceDesc.ServiceName, operatorservice.OperatorService_ServiceDesc.ServiceName,
	} {
		err := d.fetch(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: service}})
		if err != nil && status.Code(err) != codes.NotFound { // not every server has both
			return nil, err
		}
	}
	err = d.fetchImports()
	return d.files, err
}

// descriptors are the files that an upstream has sent so far.
type descriptors struct {
	stream grpc.BidiStreamingClient[reflectionpb.ServerReflectionRequest, reflectionpb.ServerReflectionResponse]
	files  []*descriptorpb.FileDescriptorProto
	known  map[string]bool // by name
	bytes  int
}

func (d *descriptors) fetch(request *reflectionpb.ServerReflectionRequest) error {
	err := d.stream.Send(request)
	if err != nil && !errors.Is(err, io.EOF) { // after the end of the stream, Recv returns its error
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
		if d.bytes += len(raw); d.bytes > maxBytes || len(d.files) > maxFiles {
			return fmt.Errorf("the upstream describes more than %d bytes or %d files", maxBytes, maxFiles)
		}
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(raw, f); err != nil {
			return fmt.Errorf("a file descriptor of the upstream's: %w", err)
		}
		if !d.known[f.GetName()] {
			d.known[f.GetName()] = true
			f.SourceCodeInfo = nil // comments and places
			d.files = append(d.files, f)
		}
	}
	return nil
}

// fetchImports fetches the imports, and theirs, that the upstream has not sent along.
func (d *descriptors) fetchImports() error {
	for i := 0; i < len(d.files); i++ {
		for _, name := range d.files[i].GetDependency() {
			if d.known[name] {
				continue
			}
			err := d.fetch(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{
				FileByFilename: name}})
			if err != nil {
				return err
			}
			if !d.known[name] {
				return fmt.Errorf("the upstream does not describe the file %s, which %s imports", name, d.files[i].GetName())
			}
		}
	}
	return nil
}
