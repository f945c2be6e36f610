package server

import (
	"context"
	"slices"
	"time"

	mwitkow "github.com/mwitkow/grpc-proxy/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/upstream"
	"github.com/temporal-seal/temporal-seal/internal/x/frame"
)

const (
	healthService = "grpc.health.v1.Health"
	// adminService listens on the frontend's port as well.
	adminService = "temporal.server.api.adminservice.v1.AdminService"

	// healthLimit and healthTime bound a health request, which is read before its caller is known.
	healthLimit = 4 << 10
	healthTime  = 5 * time.Second
	// smallRequest bounds requests of the services that are always passed: a name or two.
	smallRequest = 64 << 10
)

// alwaysPassed are the services that load balancers and command lines look at. They hold no payload.
var alwaysPassed = []string{healthService, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}

// other answers everything that is not a method of a rewritten service as this build knows it.
func (s *Server) other(l *listener, stream grpc.ServerStream) (err error) {
	full, ok := grpc.MethodFromServerStream(stream)
	if !ok {
		return status.Error(codes.Internal, from+"gRPC does not report the name of the called method")
	}
	traced, begun := stream.Context(), false
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(full, p)
		}
		if err != nil {
			connectionOf(traced).answersStatus()
		}
		if begun {
			s.tracing.end(traced, err)
		}
	}()
	if err := refusedBefore(stream.Context()); err != nil {
		return err
	}
	service := serviceOf(full)
	if service == healthService {
		return s.healthCall(l, full, stream)
	}
	isRewritten := slices.ContainsFunc(rewritten, func(d *grpc.ServiceDesc) bool { return d.ServiceName == service })
	if isRewritten {
		if m := s.learnedMethod(full); m != nil {
			answer, err := s.answer(stream.Context(), l, m)
			if err != nil {
				return err
			}
			return stream.SendMsg(answer)
		}
	}
	if s.tracing != nil {
		traced, begun = s.tracing.begin(traced, full)
		stream = tracedStream{stream, traced}
	}
	id, headers, err := s.identityOf(traced, l)
	switch {
	case err != nil:
	case isRewritten:
		err = unknownMethod(full)
	case !s.passed[service]:
		err = forbiddenService(service)
	default:
		err = authorizePassed(id, service)
	}
	if err != nil {
		return (&refusedCall{method: full, listener: l, caller: callerOf(id)}).refuse(stream.Context(), s, err)
	}
	headersSize := headersSize(headers)
	place, err := s.admission.enter(connectionOf(stream.Context()), id.Caller, true, headersSize, nil) // streams may last
	if err != nil {
		return err
	}
	held := newLease(place)
	defer held.place.leave(false)
	limit := s.admission.limits.RequestBytes
	if slices.Contains(alwaysPassed, service) {
		limit = smallRequest
	}
	counted := &countedStream{ServerStream: stream, lease: held, headers: headersSize, limit: limit}
	return s.pass(l, full, headers, counted)
}

// learnedMethod returns a method that only the upstream's reflection describes, or nil.
func (s *Server) learnedMethod(full string) *method {
	known, ok := s.learned.Load(full)
	if !ok {
		m := s.newMethod(full)
		if m == nil {
			return nil
		}
		known, _ = s.learned.LoadOrStore(full, m)
	}
	return known.(*method)
}

// refuse answers a call that is not rewritten with an error of the proxy's own.
func (r *refusedCall) refuse(ctx context.Context, s *Server, err error) error {
	st := answerFor(err)
	r.log(ctx, s, st, err)
	return st.Err()
}

// pass forwards a call, streams included, as it is.
func (s *Server) pass(l *listener, full string, headers metadata.MD, stream grpc.ServerStream) error {
	var traced context.Context // of a call to the upstream that has a span
	err := mwitkow.TransparentHandler(func(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
		route, err := s.upstreams.Route("")
		if err != nil {
			return nil, nil, (&refusedCall{method: full, listener: l}).refuse(ctx, s, err)
		}
		if err := grpc.SetSendCompressor(ctx, "identity"); err != nil {
			return nil, nil, status.Error(codes.Internal, from+err.Error())
		}
		out := outgoing(ctx, headers, l.Credential, route.Config(), "")
		if s.tracing != nil {
			if ctx, begun := s.tracing.Begin(out, full); begun {
				out, traced = ctx, ctx
			}
		}
		return out, route.Conn(ctx), nil
	})(nil, stream)
	if traced != nil {
		upstreamSpoke(stream.Context())
		s.tracing.End(traced, nil, err)
	}
	return err
}

// healthCall answers a health request that names no service, for the proxy itself and to everybody: were it
// forwarded, a frontend that is down would have every proxy taken out of service. Other health requests are
// passed.
func (s *Server) healthCall(l *listener, full string, stream grpc.ServerStream) error {
	received, _ := metadata.FromIncomingContext(stream.Context())
	size := headersSize(received)
	r, err := newReader(stream.Context(), healthLimit, healthTime)
	if err != nil {
		return err
	}
	place, err := s.admission.enter(connectionOf(stream.Context()), nil, true, size, r)
	if err != nil {
		return err
	}
	held := newLease(place)
	defer held.place.leave(false)
	r.place = &held.place
	data, err := r.once(stream.Context())
	if err != nil {
		return r.failed(stream.Context(), err)
	}
	first := frame.New(data...)
	var request healthpb.HealthCheckRequest
	if proto.Unmarshal(first.Bytes(), &request) == nil && request.GetService() == "" {
		first.Free()
		return s.health.answer(full, &request, stream)
	}
	_, headers, err := s.identityOf(stream.Context(), l)
	if err != nil {
		first.Free()
		return (&refusedCall{method: full, listener: l}).refuse(stream.Context(), s, err)
	}
	return s.pass(l, full, headers, &countedStream{ServerStream: stream, lease: held, headers: size, limit: smallRequest, first: &first})
}

// countedStream is a stream whose messages are read within the limit of bytes. The bytes of a message count
// until the next one is read: by then it was forwarded.
type countedStream struct {
	grpc.ServerStream
	lease   *lease
	headers int64 // that the lease counts as long as the stream lasts
	limit   int64
	first   *frame.Frame // was read already; nil: none

	header [messageHeader]byte // of the message that is read
}

// RecvMsg reads one message.
func (c *countedStream) RecvMsg(m any) error {
	data := c.first
	if data == nil {
		c.lease.place.giveBackTo(c.headers)
		var err error
		if data, err = c.receive(); err != nil {
			return err
		}
	}
	c.first = nil
	defer data.Free()
	return proto.Unmarshal(data.Bytes(), m.(proto.Message))
}

// receive waits for a message as long as its caller likes, and then for its bytes as long as those of any
// request.
func (c *countedStream) receive() (*frame.Frame, error) {
	ctx := c.Context()
	stream, ok := grpc.ServerTransportStreamFromContext(ctx).(wire)
	if !ok {
		return nil, errNoWire
	}
	if err := stream.ReadMessageHeader(c.header[:]); err != nil {
		return nil, err // io.EOF: the caller sends no more
	}
	r, err := newReader(ctx, c.limit, requestTime)
	if err != nil {
		return nil, err
	}
	r.place = &c.lease.place
	r.place.in.reads(r)
	defer r.close()
	r.header = c.header
	data, err := r.rest(ctx)
	if err == nil {
		err = r.complete()
	}
	message := frame.New(data...)
	return &message, r.failed(ctx, err)
}

// health is what the proxy reports of itself.
type health struct {
	server   *grpchealth.Server
	draining context.Context
	stop     context.CancelFunc
}

// newHealth reports that the proxy does not serve yet.
func newHealth() *health {
	h := &health{server: grpchealth.NewServer()}
	h.draining, h.stop = context.WithCancel(context.Background())
	h.set(false)
	return h
}

func (h *health) set(ready bool) {
	now := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		now = healthpb.HealthCheckResponse_SERVING
	}
	h.server.SetServingStatus("", now)
}

// drain ends the watches, which would otherwise last as long as their callers like.
func (h *health) drain() {
	h.server.Shutdown()
	h.stop()
}

// answer answers a health request for the proxy itself.
func (h *health) answer(full string, request *healthpb.HealthCheckRequest, stream grpc.ServerStream) (err error) {
	var answer proto.Message
	switch full {
	case healthpb.Health_Check_FullMethodName:
		answer, err = h.server.Check(stream.Context(), request)
	case healthpb.Health_List_FullMethodName:
		answer, err = h.server.List(stream.Context(), nil)
	case healthpb.Health_Watch_FullMethodName:
		return h.watch(request, stream)
	default:
		err = answerFor(unknownMethod(full)).Err()
	}
	if err != nil {
		return err
	}
	return stream.SendMsg(answer)
}

// watch reports each change until the caller leaves or the proxy drains.
func (h *health) watch(request *healthpb.HealthCheckRequest, stream grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(h.draining, cancel)()
	err := h.server.Watch(request, &grpc.GenericServerStream[healthpb.HealthCheckRequest, healthpb.HealthCheckResponse]{
		ServerStream: withContext{stream, ctx}})
	if h.draining.Err() != nil {
		return answerFor(upstream.ErrClosed).Err()
	}
	return err
}

// withContext is a stream with a context of its own.
type withContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (w withContext) Context() context.Context { return w.ctx }
