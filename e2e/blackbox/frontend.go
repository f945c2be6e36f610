package blackbox

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // SDKs compress their requests
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// CallHeader is the metadata key by which a frontend knows which call of the test a request belongs to. The proxy
// forwards it as any header of a caller, also on calls that it makes because of the caller's. Its name is that of a credential:
// the proxy keeps no other headers for calls that it makes after the caller's has ended.
const CallHeader = "x-blackbox-call-token"

// maxMessage is the size up to which SDKs receive messages, in bytes.
const maxMessage = 128 << 20

// Answer is what a scripted frontend answers to one request.
type Answer struct {
	Body    []byte      // the response message
	Status  *spb.Status // an error instead of Body; nil: none
	Header  metadata.MD
	Trailer metadata.MD
	Delay   time.Duration // before the answer; ends early when the proxy cancels the call
}

// Received is one request that reached the frontend.
type Received struct {
	Call     string // the value of CallHeader; empty for calls that no caller of the test caused
	Method   string // full name, "/package.Service/Method"
	Body     []byte
	Metadata metadata.MD
	Deadline time.Duration // time left when it arrived; 0: no deadline
	Canceled bool          // the proxy canceled the call before the answer
}

// Name is the method's name without its service.
func (r Received) Name() string { return methodName(r.Method) }

// Frontend is a scripted Temporal frontend. It answers every method of every service.
type Frontend struct {
	Address string // host:port on loopback

	answer func(Received) Answer
	server *grpc.Server

	mu       sync.Mutex
	received []Received
}

// StartFrontend serves on a free loopback port until Stop. answer is called for each request, from several goroutines at
// once. Requests are recorded before it is called.
func StartFrontend(answer func(Received) Answer) (*Frontend, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the scripted frontend: %w", err)
	}
	f := &Frontend{Address: listener.Addr().String(), answer: answer}
	f.server = grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnknownServiceHandler(f.handle))
	go f.server.Serve(listener) // ends with Stop
	return f, nil
}

// Stop ends all calls and closes the listener.
func (f *Frontend) Stop() { f.server.Stop() }

// Received is a copy of all requests since the start or the last Reset, in the order of their arrival.
func (f *Frontend) Received() []Received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.received)
}

// Of returns the requests that one call of the test caused: what was forwarded, and what the proxy sent by itself.
func (f *Frontend) Of(call string) []Received {
	return slices.DeleteFunc(f.Received(), func(r Received) bool { return r.Call != call })
}

// Reset forgets the requests received so far.
func (f *Frontend) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.received = nil
}

func (f *Frontend) handle(_ any, stream grpc.ServerStream) error {
	ctx := stream.Context()
	method, _ := grpc.MethodFromServerStream(stream)
	var body []byte
	if err := stream.RecvMsg(&body); err != nil {
		return err
	}
	r := Received{Method: method, Body: body}
	r.Metadata, _ = metadata.FromIncomingContext(ctx)
	if values := r.Metadata.Get(CallHeader); len(values) > 0 {
		r.Call = values[0]
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.Deadline = time.Until(deadline)
	}
	f.mu.Lock()
	f.received = append(f.received, r)
	index := len(f.received) - 1
	f.mu.Unlock()

	a := f.answer(r)
	if a.Delay > 0 && !sleep(ctx, a.Delay) {
		f.mu.Lock()
		if index < len(f.received) {
			f.received[index].Canceled = true
		}
		f.mu.Unlock()
		return ctx.Err()
	}
	if len(a.Header) > 0 {
		if err := stream.SetHeader(a.Header); err != nil {
			return err
		}
	}
	stream.SetTrailer(a.Trailer)
	if a.Status != nil {
		return status.FromProto(a.Status).Err()
	}
	return stream.SendMsg(&a.Body)
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// raw is a gRPC codec that leaves messages as bytes.
type raw struct{}

var _ encoding.CodecV2 = raw{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("blackbox: %T is not *[]byte", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("blackbox: %T is not *[]byte", v)
	}
	*b = data.Materialize()
	return nil
}
