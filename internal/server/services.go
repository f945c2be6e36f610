package server

import (
	"context"
	"io"
	"strings"
	"sync"

	mwitkow "github.com/mwitkow/grpc-proxy/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

const healthService = "grpc.health.v1.Health"

// other answers everything that is no method of a rewritten service as this build knows it.
func (s *Server) other(l *listener, stream grpc.ServerStream) (err error) {
	full, ok := grpc.MethodFromServerStream(stream)
	if !ok {
		return status.Error(codes.Internal, from+"gRPC does not tell the name of the called method")
	}
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(full, p)
		}
	}()
	service := serviceOf(full)
	for _, desc := range rewritten {
		if service == desc.ServiceName {
			return s.lateMethod(l, full, stream)
		}
	}
	if !s.passed[service] {
		return s.refuseOther(l, full, forbiddenService(service))
	}
	gate, err := s.enter(true) // streams may last
	if err != nil {
		return answerFor(err).Err()
	}
	defer gate.leave()
	if service == healthService {
		first := new(frame)
		if err := stream.RecvMsg(first); err != nil {
			return err
		}
		if forProxy(first) {
			return s.health.answer(full, stream)
		}
		stream = &replayed{ServerStream: stream, first: first}
	}
	return s.pass(l, full, stream)
}

// lateMethod answers a method that the upstream's reflection knows and this build does not, or refuses it.
func (s *Server) lateMethod(l *listener, full string, stream grpc.ServerStream) error {
	known, ok := s.late.Load(full)
	if !ok {
		m := s.newMethod(full)
		if m == nil {
			return s.refuseOther(l, full, unknownMethod(full))
		}
		known, _ = s.late.LoadOrStore(full, m)
	}
	answer, err := s.unary(stream.Context(), l, known.(*method), func(m any) error {
		err := stream.RecvMsg(m)
		if err == io.EOF {
			return status.Error(codes.InvalidArgument, from+"the call holds no request message")
		}
		return err
	})
	if err != nil {
		return err
	}
	return stream.SendMsg(answer)
}

func (s *Server) refuseOther(l *listener, full string, err error) error {
	st := answerFor(err)
	s.logRefusal(full, l.Name, st, err)
	return st.Err()
}

// pass forwards a call, streams included, without looking at it.
func (s *Server) pass(l *listener, full string, stream grpc.ServerStream) error {
	return mwitkow.TransparentHandler(func(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		id, err := l.Identify(shown(ctx, md))
		if err == nil {
			err = authorisePassed(id, serviceOf(full))
		}
		if err != nil {
			return nil, nil, s.refuseOther(l, full, err)
		}
		route, err := s.upstreams.Route("")
		if err != nil {
			return nil, nil, s.refuseOther(l, full, err)
		}
		if err := grpc.SetSendCompressor(ctx, "identity"); err != nil {
			return nil, nil, status.Error(codes.Internal, from+err.Error())
		}
		return outgoing(ctx, md, l.Credential, route.Config(), ""), route.Conn(ctx), nil
	})(nil, stream)
}

// replayed is a stream whose first message was read already.
type replayed struct {
	grpc.ServerStream
	first *frame
}

func (r *replayed) RecvMsg(m any) error {
	if r.first == nil {
		return r.ServerStream.RecvMsg(m)
	}
	defer func() { r.first.free(); r.first = nil }()
	return rawCodec{}.Unmarshal(r.first.data, m)
}

// forProxy tells if a health request asks for the proxy itself: it names no service. Were those forwarded, a frontend
// that is down would have every proxy taken out of service.
func forProxy(f *frame) bool {
	var request healthpb.HealthCheckRequest
	return proto.Unmarshal(f.bytes(), &request) == nil && request.GetService() == ""
}

// health is what the proxy says of itself.
type health struct {
	mu       sync.Mutex
	serving  bool
	changed  chan struct{} // closed at the next change
	draining chan struct{} // closed when the proxy ends
}

func (h *health) init() {
	h.changed = make(chan struct{})
	h.draining = make(chan struct{})
}

// drain ends the watches, which would otherwise last as long as their callers like.
func (h *health) drain() {
	h.set(false)
	close(h.draining)
}

func (h *health) set(serving bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving == serving {
		return
	}
	h.serving = serving
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *health) get() (*healthpb.HealthCheckResponse, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.serving {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, h.changed
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, h.changed
}

func (h *health) answer(full string, stream grpc.ServerStream) error {
	switch full {
	case healthpb.Health_Check_FullMethodName:
		now, _ := h.get()
		return send(stream, now)
	case healthpb.Health_List_FullMethodName:
		now, _ := h.get()
		return send(stream, &healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{"": now}})
	case healthpb.Health_Watch_FullMethodName:
		for {
			now, changed := h.get()
			if err := send(stream, now); err != nil {
				return err
			}
			select {
			case <-changed:
			case <-h.draining:
				return answerFor(upstream.ErrClosed).Err()
			case <-stream.Context().Done():
				return status.FromContextError(stream.Context().Err()).Err()
			}
		}
	}
	return answerFor(unknownMethod(full)).Err()
}

func send(stream grpc.ServerStream, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return status.Error(codes.Internal, from+err.Error())
	}
	return stream.SendMsg(&frame{data: mem.BufferSlice{mem.SliceBuffer(b)}})
}

// serviceOf splits "/package.Service/Method".
func serviceOf(fullMethod string) string {
	name := strings.TrimPrefix(fullMethod, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return name
}
