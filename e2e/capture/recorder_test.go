package capture

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	protobuf "google.golang.org/protobuf/proto"
)

// exchange is one RPC as it was on the wire.
type exchange struct {
	request, response []byte
	failed            []byte // the status of an error answer, serialised; then there is no response
}

func (x *exchange) secrets() int {
	return bytes.Count(x.request, []byte(mark)) + bytes.Count(x.response, []byte(mark)) + bytes.Count(x.failed, []byte(mark))
}

// files are the exchange's by suffix. One that is empty has none: it holds nothing to seal or open.
func (x *exchange) files() map[string][]byte {
	files := map[string][]byte{}
	for suffix, b := range map[string][]byte{"request": x.request, "response": x.response, "status": x.failed} {
		if len(b) > 0 {
			files[suffix] = b
		}
	}
	return files
}

// recorder keeps the bytes of every RPC that carries a secret.
type recorder struct {
	mu        sync.Mutex
	exchanges map[string][]exchange
}

// intercept gives every call a codec of its own, since that is where the very bytes of a message are.
func (r *recorder) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	wire := &wireCodec{CodecV2: encoding.GetCodecV2(proto.Name)}
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.ForceCodecV2(wire))...)
	x := exchange{request: wire.sent, response: wire.received}
	if err != nil {
		var marshalErr error
		if x.failed, marshalErr = protobuf.Marshal(status.Convert(err).Proto()); marshalErr != nil {
			return fmt.Errorf("record the error of %s: %w", method, marshalErr)
		}
	}
	if x.secrets() == 0 {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := method[strings.LastIndex(method, "/")+1:]
	r.exchanges[name] = append(r.exchanges[name], x)
	return err
}

type wireCodec struct {
	encoding.CodecV2
	sent, received []byte
}

func (c *wireCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.CodecV2.Marshal(v)
	c.sent = b.Materialize()
	return b, err
}

func (c *wireCodec) Unmarshal(b mem.BufferSlice, v any) error {
	c.received = b.Materialize()
	return c.CodecV2.Unmarshal(b, v)
}

// several are the methods of which one exchange does not show enough.
var several = map[string]int{"RespondWorkflowTaskCompleted": 4, "QueryWorkflow": 2}

// write keeps of each method the exchanges with the most secrets, so that a set stays small.
func (r *recorder) write(dir string) (files, size int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for method, all := range r.exchanges {
		slices.SortStableFunc(all, func(a, b exchange) int { return cmp.Compare(b.secrets(), a.secrets()) })
		for i, x := range all[:min(len(all), cmp.Or(several[method], 1))] {
			for suffix, b := range x.files() {
				name := fmt.Sprintf("%s.%d.%s.binpb", method, i+1, suffix)
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
					return files, size, err
				}
				files++
				size += len(b)
			}
		}
	}
	return files, size, nil
}
