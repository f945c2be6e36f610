package abuse

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// target is where a shape is aimed at.
type target struct {
	Open, Token, MTLS, JWT string // listeners: anonymous, by token, by certificate, by JWT
	Codec, Admin           string
	Secret                 string // the token of a caller who may use the namespace "bad-*" and abuses it
	CertFile, KeyFile      string // a certificate that no authority of the listener signed

	ctx context.Context
}

// shape is one way to make the proxy pay.
type shape struct {
	name  string
	class string // a sentence of [sentences]
	run   func(target) error
}

// The sentences that the suite has to have a shape for.
const (
	beforeAuth = "work before the caller is known"
	elements   = "elements, headers and output are bounded, not input bytes alone"
	caches     = "caches keyed by a caller's text are bounded"
	second     = "a second API has the same limits"
	linear     = "work is linear in the message and ends with the call"
	fairness   = "limits are shared fairly"
	combined   = "several shapes at once"
)

var sentences = []string{beforeAuth, elements, caches, second, linear, fairness, combined}

// shapes are all of them; init functions of the files shapes_*.go add them.
var shapes []shape

func add(class, name string, run func(target) error) {
	shapes = append(shapes, shape{name, class, run})
}

// sleep waits, or returns early when the shape's time is over.
func (t target) sleep(d time.Duration) {
	select {
	case <-t.ctx.Done():
	case <-time.After(d):
	}
}

// over reports whether the shape's time is over.
func (t target) over() bool { return t.ctx.Err() != nil }

// dial connects with an ordinary gRPC client.
func (t target) dial(address string) *grpc.ClientConn {
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		panic(err) // no address is wrong
	}
	return c
}

// call makes one call of the workflow service with the attacker's token. Its outcome is no matter of the shape.
func (t target) call(c *grpc.ClientConn, method string, in []byte, d time.Duration, options ...grpc.CallOption) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.ctx, d)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+t.Secret)
	var out []byte
	err := c.Invoke(ctx, workflowService+method, &in, &out, options...)
	return out, err
}

// repeat makes the same call with so many callers at once, each over a connection of its own, until the time is over.
func (t target) repeat(callers int, address, method string, in []byte, options ...grpc.CallOption) error {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			c := t.dial(address)
			defer c.Close()
			for !t.over() {
				_, _ = t.call(c, method, in, 60*time.Second, options...)
			}
		})
	}
	wg.Wait()
	return nil
}

// flood opens raw connections and runs each in a goroutine of its own.
func (t target) flood(connections int, address string, window uint32, run func(*raw) error) error {
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			for !t.over() {
				r, err := dialRaw(address, window)
				if err == nil {
					_ = run(r)
					r.close()
				}
				t.sleep(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return nil
}

// post sends a body to the codec server.
func (t target) post(path, token string, body io.Reader) {
	r, err := http.NewRequestWithContext(t.ctx, http.MethodPost, "http://"+t.Codec+path, body)
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Namespace", badNamespace)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
}

// badNamespace is the attacker's own.
const badNamespace = "bad"

// field appends a field of bytes.
func field(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// fieldOf is the number of a field, by its name in the API's definition.
func fieldOf(m proto.Message, name string) protowire.Number {
	f := m.ProtoReflect().Descriptor().Fields()
	for i := range f.Len() {
		if string(f.Get(i).Name()) == name {
			return f.Get(i).Number()
		}
	}
	panic(fmt.Sprintf("%T has no field %s", m, name))
}

// marshal encodes a message of the API.
func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // the shape is wrong
	}
	return b
}

// filler is a text without meaning.
func filler(n int) string { return strings.Repeat("z", n) }

// certificate is the attacker's.
func (t target) certificate() tls.Certificate {
	c, _ := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	return c
}
