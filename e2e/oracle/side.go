package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	querypb "go.temporal.io/api/query/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// side is one of the two binaries at work: a proxy with the profile's config, which is compared, and a second one, the
// companion, with the same keys. The companion seals what the frontend is to hold and opens what the proxy forwarded, so
// that nothing here depends on the envelope's format, and so that this leaves no trace in what is compared.
type side struct {
	name   string // "old" or "new"
	own    string // the folder of its configs and policies
	script *blackbox.Script
	proxy  *proxy
	client *blackbox.Client
	// counted are the proxy's metrics after the last case.
	counted map[string]string

	companion  *proxy
	sealing    *blackbox.Client
	opened     map[string]opening // by the sealed payload's bytes
	openedText map[string]string
	sealedNow  [][]byte // data of the payloads that were sealed for the case at work
	sealedSize int      // bytes of a sealed payload that is short
}

// proxy is a running binary.
type proxy struct {
	*peers.Process
	address, admin, codec string
	log                   *harness.Log
	audit                 *tail
}

// startProxy starts a binary with a config and waits until it serves.
func startProxy(ctx context.Context, binary, dir, config string) (*proxy, error) {
	path := filepath.Join(dir, "proxy.yaml")
	audit := filepath.Join(dir, "audit.jsonl")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(config, "AUDIT", audit)), 0o644); err != nil {
		return nil, fmt.Errorf("write the config: %w", err)
	}
	p := &proxy{log: harness.NewLog(), audit: &tail{path: audit}}
	cmd := exec.Command(binary, "serve", "--config", path, "--log-format", "json", "--log-level", "info")
	cmd.Dir = filepath.Dir(dir)
	var err error
	if p.Process, err = peers.Start(filepath.Base(binary), cmd, p.log); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	serving, err := p.log.Await(ctx, p.Done(), func(line map[string]any) bool { return line["msg"] == "serving" })
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("%s does not serve: %w\n%s", binary, err, p.log)
	}
	listen, _ := serving["listen"].(string)
	p.address, _, _ = strings.Cut(listen, ",")
	p.admin, _ = serving["admin"].(string)
	p.codec, _ = serving["codec_server"].(string)
	return p, nil
}

// startSide starts both proxies of a side. dir holds the keys that both sides share; own is the side's own folder.
func startSide(ctx context.Context, name, binary, own string, f *profile) (*side, error) {
	s := &side{name: name, own: own, opened: map[string]opening{}, openedText: map[string]string{}}
	var err error
	if s.script, err = blackbox.StartScript(); err != nil {
		return nil, err
	}
	for _, one := range []struct {
		dir, config string
		to          **proxy
		client      **blackbox.Client
	}{
		{filepath.Join(own, "main"), f.config(s.script.Address, filepath.Join(own, "main")), &s.proxy, &s.client},
		{filepath.Join(own, "companion"), companionConfig(f, s.script.Address, filepath.Join(own, "companion")),
			&s.companion, &s.sealing},
	} {
		if err := f.write(one.dir); err != nil {
			return s, err
		}
		if *one.to, err = startProxy(ctx, binary, one.dir, one.config); err != nil {
			return s, err
		}
		if *one.client, err = blackbox.Dial((*one.to).address); err != nil {
			return s, err
		}
	}
	short, err := s.seal(ctx, namespaces[0], hints[0], []*commonpb.Payload{{Data: []byte("short")}})
	if err != nil {
		return s, err
	}
	s.sealedSize = proto.Size(short[0])
	return s, nil
}

func (s *side) stop() {
	for _, c := range []*blackbox.Client{s.client, s.sealing} {
		if c != nil {
			c.Close()
		}
	}
	for _, p := range []*proxy{s.proxy, s.companion} {
		if p != nil {
			_ = p.Stop()
		}
	}
	s.script.Stop()
}

// seal has payloads sealed in a namespace. hint chooses how: see companionPolicy.
func (s *side) seal(ctx context.Context, namespace, hint string, clear []*commonpb.Payload) ([]*commonpb.Payload, error) {
	call := s.script.NewCall()
	answer := s.sealing.Do(ctx, blackbox.Request{Call: call, Method: "SignalWorkflowExecution",
		Body: blackbox.Marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: namespace, SignalName: "seal",
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: hint}, Input: &commonpb.Payloads{Payloads: clear}})})
	q := new(workflowservice.SignalWorkflowExecutionRequest)
	if err := s.forwarded(call, answer, q); err != nil {
		return nil, err
	}
	return q.GetInput().GetPayloads(), nil
}

func (s *side) sealFailure(ctx context.Context, namespace, hint string, f *failurepb.Failure) (*failurepb.Failure, error) {
	call := s.script.NewCall()
	answer := s.sealing.Do(ctx, blackbox.Request{Call: call, Method: "RespondActivityTaskFailedById",
		Body: blackbox.Marshal(&workflowservice.RespondActivityTaskFailedByIdRequest{
			Namespace: namespace, WorkflowId: hint, ActivityId: "1", Failure: f})})
	q := new(workflowservice.RespondActivityTaskFailedByIdRequest)
	if err := s.forwarded(call, answer, q); err != nil {
		return nil, err
	}
	return q.GetFailure(), nil
}

func (s *side) sealText(ctx context.Context, namespace, text string) (string, error) {
	call := s.script.NewCall()
	answer := s.sealing.Do(ctx, blackbox.Request{Call: call, Method: "RespondQueryTaskCompleted",
		Body: blackbox.Marshal(&workflowservice.RespondQueryTaskCompletedRequest{
			Namespace: namespace, TaskToken: []byte("t"), CompletedType: 2, ErrorMessage: text})})
	q := new(workflowservice.RespondQueryTaskCompletedRequest)
	if err := s.forwarded(call, answer, q); err != nil {
		return "", err
	}
	return q.GetErrorMessage(), nil
}

// forwarded reads what the companion forwarded of a call.
func (s *side) forwarded(call string, answer blackbox.Response, to proto.Message) error {
	if answer.Status != nil {
		return fmt.Errorf("the companion refuses to seal: %s: %s", answer.Code(), answer.Status.GetMessage())
	}
	for _, r := range s.script.Of(call) {
		if r.Name() != "DescribeNamespace" {
			return proto.Unmarshal(r.Body, to)
		}
	}
	return errors.New("the companion forwarded nothing")
}

// opening is what a sealed payload opens to, byte for byte, and the keys that audit says it was sealed with. payload is
// nil where it opens in no namespace. It need not be a message: what was sealed may have been none.
type opening struct {
	payload []byte
	keys    string
}

// open opens a payload in the first of the namespaces in which that can be done, as a memo. Answers stay known: many
// messages hold the same payload.
func (s *side) open(ctx context.Context, p *commonpb.Payload) (opening, error) {
	key := string(marshal(p))
	if known, ok := s.opened[key]; ok {
		return known, nil
	}
	var o opening
	for _, namespace := range namespaces {
		var err error
		if o, err = s.openIn(ctx, namespace, p); err != nil {
			return o, err
		}
		if o.payload != nil {
			break
		}
	}
	s.opened[key] = o
	return o, nil
}

func (s *side) openIn(ctx context.Context, namespace string, p *commonpb.Payload) (opening, error) {
	call := s.script.NewCall()
	memo := &commonpb.Memo{Fields: map[string]*commonpb.Payload{"m": p}}
	s.script.Set(call, "DescribeWorkflowExecution", blackbox.Message(&workflowservice.DescribeWorkflowExecutionResponse{
		WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Memo: memo}}))
	defer s.script.Forget(call)
	answer := s.sealing.Do(ctx, blackbox.Request{Call: call, Method: "DescribeWorkflowExecution",
		Body: blackbox.Marshal(&workflowservice.DescribeWorkflowExecutionRequest{Namespace: namespace})})
	if answer.Status != nil {
		return opening{}, fmt.Errorf("the companion refuses to open: %s: %s", answer.Code(), answer.Status.GetMessage())
	}
	lines, err := s.companion.audit.next()
	if err != nil {
		return opening{}, err
	}
	opened, err := inside("temporal.api.workflowservice.v1.DescribeWorkflowExecutionResponse", answer.Body,
		"workflow_execution_info", "memo", "fields", "value")
	if err != nil {
		return opening{}, fmt.Errorf("read what the companion opened: %w", err)
	}
	if bytes.Equal(opened, marshal(p)) {
		return opening{}, nil
	}
	return opening{opened, keysIn(lines)}, nil
}

// leastSealed is the size in bytes below which a metadata value cannot hold an envelope.
const leastSealed = 40

// remember notes what was sealed for the case at work, for hex. The envelope is the data, or stands in the metadata beside
// a document that stays readable in part.
func (s *side) remember(p *commonpb.Payload) {
	s.sealedNow = append(s.sealedNow, p.GetData())
	for _, key := range slices.Sorted(maps.Keys(p.GetMetadata())) {
		if value := p.GetMetadata()[key]; len(value) >= leastSealed {
			s.sealedNow = append(s.sealedNow, value)
		}
	}
}

// hex writes bytes that are no whole sealed payload. What is in them of values that were sealed for this case is named
// instead of written: it differs between any two runs.
func (s *side) hex(b []byte) string {
	for i, sealed := range s.sealedNow {
		name := fmt.Appendf(nil, "<sealed %d>", i)
		if len(sealed) == 0 {
			continue
		}
		b = bytes.ReplaceAll(b, sealed, name)
		if at := bytes.Index(b, sealed[:min(len(sealed), 24)]); at >= 0 && bytes.HasPrefix(sealed, b[at:]) {
			b = append(b[:at:at], "<sealed, cut>"...)
		}
	}
	if len(b) > 200 {
		return fmt.Sprintf("%x... %d bytes, sha256 %x", b[:100], len(b), sha256.Sum256(b))
	}
	return fmt.Sprintf("%x", b)
}

// openText opens a text that stands in the place of a query's error message.
func (s *side) openText(ctx context.Context, text string) string {
	if known := s.openedText[text]; known != "" {
		return known
	}
	s.openedText[text] = "does not open"
	for _, namespace := range namespaces {
		call := s.script.NewCall()
		st := &spb.Status{Code: int32(codes.InvalidArgument), Message: text}
		s.script.Set(call, "QueryWorkflow", blackbox.Answer{Status: st})
		answer := s.sealing.Do(ctx, blackbox.Request{Call: call, Method: "QueryWorkflow",
			Body: blackbox.Marshal(&workflowservice.QueryWorkflowRequest{
				Namespace: namespace, Query: &querypb.WorkflowQuery{QueryType: "q"}})})
		s.script.Forget(call)
		if answer.Status.GetMessage() != text {
			s.openedText[text] = "text " + answer.Status.GetMessage()
			break
		}
	}
	_, _ = s.companion.audit.next()
	return s.openedText[text]
}

// keysIn names the keys and namespaces that audit records say payloads were sealed with.
func keysIn(lines []map[string]any) string {
	var b bytes.Buffer
	for _, line := range lines {
		payloads, _ := line["payloads"].([]any)
		for _, p := range payloads {
			one, _ := p.(map[string]any)
			fmt.Fprintf(&b, "key %v in %v ", one["key"], one["sealed_in"])
		}
	}
	return b.String()
}

// tail reads what was appended to a file of JSON lines.
type tail struct {
	path string
	at   int64
}

// next returns the lines since the last call.
func (t *tail) next() ([]map[string]any, error) {
	f, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() <= t.at {
		return nil, err
	}
	b := make([]byte, info.Size()-t.at)
	n, err := f.ReadAt(b, t.at)
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(b[:n], '\n') + 1
	t.at += int64(end)
	var lines []map[string]any
	for text := range bytes.Lines(b[:end]) {
		var line map[string]any
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("%s: %w", t.path, err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}
