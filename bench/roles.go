package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// roles are what this program does as a process beside the load, by its first argument.
var roles = map[string]func(args []string) error{
	"frontend": frontend, "sink": sink, "delay": delay, "relay": relay, "visitor": visitor,
}

// maxMessage is what SDKs accept.
const maxMessage = 128 << 20

// printAddresses reports to the parent process where this one listens.
func printAddresses(addresses ...string) { fmt.Println("listening", strings.Join(addresses, " ")) }

// parse reads the flags of a role with an upstream, and listens on a free port.
func parse(role string, args []string) (upstream string, l net.Listener, err error) {
	f := flag.NewFlagSet(role, flag.ContinueOnError)
	f.StringVar(&upstream, "upstream", "", "address of what stands behind it")
	if err = f.Parse(args); err != nil {
		return "", nil, err
	}
	l, err = net.Listen("tcp", "127.0.0.1:0")
	return upstream, l, err
}

// raw carries frames as they are. gRPC frees what it was given to send.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) { return *v.(*mem.BufferSlice), nil }

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	*v.(*mem.BufferSlice) = data
	return nil
}

// relay is the least that a proxy with gRPC can do: it passes unary calls on as bytes, with their metadata.
func relay(args []string) error {
	upstream, l, err := parse("relay", args)
	if err != nil {
		return err
	}
	cc, err := grpc.NewClient(upstream, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	desc := grpc.ServiceDesc{ServiceName: workflowservice.WorkflowService_ServiceDesc.ServiceName, HandlerType: (*any)(nil)}
	for _, m := range workflowservice.WorkflowService_ServiceDesc.Methods {
		full := "/" + desc.ServiceName + "/" + m.MethodName
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: m.MethodName,
			Handler: func(_ any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in, out := new(mem.BufferSlice), new(mem.BufferSlice)
				if err := receive(in); err != nil {
					return nil, err
				}
				md, _ := metadata.FromIncomingContext(ctx)
				var header, trailer metadata.MD
				err := cc.Invoke(metadata.NewOutgoingContext(ctx, md), full, in, out, grpc.Header(&header), grpc.Trailer(&trailer))
				return out, errors.Join(grpc.SetHeader(ctx, header), grpc.SetTrailer(ctx, trailer), err)
			}})
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(maxMessage))
	s.RegisterService(&desc, struct{}{})
	printAddresses(l.Addr().String())
	return s.Serve(l)
}

// visitor is a proxy as the API's own package makes one: messages are decoded, visited and encoded again. Its crypto is
// the least that is safe: AES-256-GCM with a random nonce, one key.
func visitor(args []string) error {
	upstream, l, err := parse("visitor", args)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	intercept, err := proxy.NewPayloadVisitorInterceptor(proxy.PayloadVisitorInterceptorOptions{
		Outbound: &proxy.VisitPayloadsOptions{SkipSearchAttributes: true, Visitor: each(func(p *commonpb.Payload) (*commonpb.Payload, error) {
			b, err := proto.Marshal(p)
			if err != nil {
				return nil, err
			}
			nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(b)+aead.Overhead())
			if _, err := rand.Read(nonce); err != nil {
				return nil, err
			}
			return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/encrypted")}, Data: aead.Seal(nonce, nonce, b, nil)}, nil
		})},
		Inbound: &proxy.VisitPayloadsOptions{SkipSearchAttributes: true, Visitor: each(func(p *commonpb.Payload) (*commonpb.Payload, error) {
			if string(p.Metadata["encoding"]) != "binary/encrypted" || len(p.Data) < aead.NonceSize() {
				return p, nil
			}
			b, err := aead.Open(nil, p.Data[:aead.NonceSize()], p.Data[aead.NonceSize():], nil)
			if err != nil {
				return nil, err
			}
			plain := new(commonpb.Payload)
			return plain, proto.Unmarshal(b, plain)
		})},
	})
	if err != nil {
		return err
	}
	cc, err := grpc.NewClient(upstream, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(intercept),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	handler, err := proxy.NewWorkflowServiceProxyServer(proxy.WorkflowServiceProxyOptions{Client: workflowservice.NewWorkflowServiceClient(cc)})
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	workflowservice.RegisterWorkflowServiceServer(s, handler)
	printAddresses(l.Addr().String())
	return s.Serve(l)
}

func each(change func(*commonpb.Payload) (*commonpb.Payload, error)) func(*proxy.VisitPayloadsContext, []*commonpb.Payload) ([]*commonpb.Payload, error) {
	return func(_ *proxy.VisitPayloadsContext, in []*commonpb.Payload) (out []*commonpb.Payload, err error) {
		out = make([]*commonpb.Payload, len(in))
		for i, p := range in {
			if out[i], err = change(p); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}
