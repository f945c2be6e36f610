package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// observation is what one call showed of a binary: texts by aspect, to be compared line by line.
type observation map[string]string

// The aspects, in the order in which differences are listed.
var aspects = []string{"status", "answer", "headers", "forwarded", "size", "audit", "metrics"}

// tooSlow is in what a call shows whose time ran out, which says something about the machine and not about the build.
// Errors of the frontend have another text.
const tooSlow = "context deadline exceeded"

// wasSlow reports whether a call ran out of time.
func (o observation) wasSlow() bool {
	return strings.Contains(o["status"]+o["forwarded"], tooSlow)
}

// run makes a case's call on one side.
func (s *side) run(ctx context.Context, c testCase) (observation, error) {
	request, err := c.request(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: make the request: %w", c.name, s.name, err)
	}
	if s.counted == nil {
		if s.counted, err = s.proxy.metrics(); err != nil {
			return nil, err
		}
	}
	o := observation{}
	if c.codec != "" {
		err = s.post(ctx, c, request, o)
	} else {
		err = s.call(ctx, c, request, o)
	}
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", c.name, s.name, err)
	}
	after, err := s.proxy.metrics()
	if err != nil {
		return nil, err
	}
	o["metrics"] = delta(s.counted, after)
	s.counted = after
	lines, err := s.proxy.audit.next()
	if err != nil {
		return nil, err
	}
	o["audit"] = auditText(lines)
	s.script.Reset()
	s.sealedNow = nil
	return o, nil
}

func (s *side) call(ctx context.Context, c testCase, request []byte, o observation) error {
	answer, err := c.answer(ctx, s)
	if err != nil {
		return fmt.Errorf("make the answer: %w", err)
	}
	answer.Header, answer.Trailer = metadata.Pairs("x-answer", "header"), metadata.Pairs("x-answer-end", "trailer")
	call := s.script.NewCall()
	s.script.Set(call, methodOf(c.method), answer)
	got := s.client.Do(ctx, blackbox.Request{Call: call, Method: c.method, Body: request, Token: c.token, Timeout: callTimeout,
		Metadata: metadata.Pairs("client-name", "oracle", "temporal-namespace", namespaces[0], "caller-type", "operator")})
	s.script.Forget(call)
	received := s.script.Of(call)
	o["outcome"] = got.Code()
	if o["status"], err = s.normalizeStatus(ctx, got.Status); err != nil {
		return err
	}
	sent, err := s.normalize(ctx, got.Body, c.out)
	if err != nil {
		return err
	}
	o["answer"] = sent.out.String()
	if handsOut(c.method) {
		o["answer"] = sortedLines(o["answer"])
	}
	o["headers"] = headers(got.Header, call) + "--\n" + headers(got.Trailer, call)
	var forwarded, sizes strings.Builder
	for _, r := range received {
		if !isCompared(r, c.method) {
			continue
		}
		body, err := s.normalize(ctx, r.Body, c.inputOf(r.Method))
		if err != nil {
			return err
		}
		fmt.Fprintf(&forwarded, "%s, time left %t\n%s%s", r.Method, r.Deadline > callTimeout/2, headers(r.Metadata, call), body.out.String())
		// Formats of the envelope differ by a constant, which counts for neither side.
		fmt.Fprintf(&sizes, "%s %d bytes %d sealed\n", r.Name(), len(r.Body)-body.envelopes*s.sealedSize, body.envelopes)
	}
	o["forwarded"], o["size"] = forwarded.String(), sizes.String()
	return nil
}

// handsOut reports whether an answer may hold tasks. The proxy takes tasks that do not open out of it and encodes the rest
// anew, with maps in any order.
func handsOut(method string) bool {
	name := methodOf(method)
	return strings.HasPrefix(name, "Poll") || name == "RespondWorkflowTaskCompleted" || name == "StartWorkflowExecution"
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func methodOf(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }

// isCompared reports whether a request to the frontend is the case's own or answers a task in its worker's place. What
// else the proxy asks the server, it asks once in a while and not at each call.
func isCompared(r blackbox.Received, method string) bool {
	return r.Method == method || strings.HasPrefix(r.Name(), "Respond") || r.Name() == "PauseActivity"
}

func (c testCase) inputOf(method string) protoreflect.MessageDescriptor {
	if method == c.method {
		return c.in
	}
	list, err := methods()
	if err != nil {
		return nil
	}
	for _, m := range list {
		if fullName(m) == method {
			return m.Input()
		}
	}
	return nil
}

// unequal headers are written by gRPC, or name what differs between any two runs. Details of a status are compared with
// the status.
var unequal = []string{":authority", "user-agent", "content-type", "grpc-accept-encoding", "traceparent", "date",
	"grpc-status-details-bin", blackbox.CallHeader}

func headers(md metadata.MD, call string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(md)) {
		if !slices.Contains(unequal, k) {
			fmt.Fprintf(&b, "%s: %q\n", k, md[k])
		}
	}
	return strings.ReplaceAll(b.String(), call, "CALL")
}

// post sends a request to the codec server.
func (s *side) post(ctx context.Context, c testCase, body []byte, o observation) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.proxy.codec+c.codec, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("X-Namespace", c.namespace)
	q.Header.Set("Authorization", "Bearer "+c.token)
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	o["status"], o["outcome"] = r.Status, fmt.Sprint("HTTP ", r.StatusCode)
	n := &normal{ctx: ctx, side: s}
	if n.json("body", text); n.err != nil {
		return n.err
	}
	o["answer"] = n.out.String()
	return nil
}

// auditText writes records without what differs between any two runs. The groups of payloads in a record are sorted: they
// come in the order of a message's map.
func auditText(lines []map[string]any) string {
	var b strings.Builder
	for _, line := range lines {
		delete(line, "time")
		delete(line, "trace_id")
		if groups, ok := line["payloads"].([]any); ok {
			slices.SortFunc(groups, func(x, y any) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
		}
		text, _ := json.Marshal(line)
		b.Write(append(text, '\n'))
	}
	return b.String()
}

// isCounted reports whether a metric counts what calls do. Others hang on time or on the runtime: durations, gauges of
// what is under way, and calls to the key service, which a process also makes by itself.
func isCounted(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	for _, prefix := range []string{"go_", "process_", "promhttp_", "otel_", "temporal_seal_kms_"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	for _, suffix := range []string{"_bucket", "_sum", "_seconds", "_in_flight", "_connections"} {
		if strings.HasSuffix(name, suffix) {
			return false
		}
	}
	return true
}

// scraper reads the metrics page. Compressing it costs more than sending it over loopback.
var scraper = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableCompression: true}}

// metrics reads the values of all that is counted.
func (p *proxy) metrics() (map[string]string, error) {
	r, err := scraper.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	values := map[string]string{}
	for line := range strings.SplitSeq(string(text), "\n") {
		at := strings.LastIndexByte(line, ' ')
		if at > 0 && line[0] != '#' && isCounted(line[:at]) {
			values[line[:at]] = line[at+1:]
		}
	}
	return values, nil
}

// delta writes by how much the values changed, a line a series.
func delta(before, after map[string]string) string {
	var changed []string
	for series, value := range after {
		if value == before[series] {
			continue
		}
		old, _ := strconv.ParseFloat(before[series], 64) // of a new series: 0
		now, _ := strconv.ParseFloat(value, 64)
		changed = append(changed, fmt.Sprintf("%s %+g", series, now-old))
	}
	slices.Sort(changed)
	return strings.Join(changed, "\n")
}

// passing are values in log lines that differ between any two runs: times, durations, addresses, ids of traces and keys.
var passing = regexp.MustCompile(`sealed\.v1:[\w-]+|127\.0\.0\.1:\d+|[0-9a-f]{16,}|call-\d+|` +
	`\b\d+(\.\d+)?(ns|µs|ms|s)\b|/[^ "]*oracle[^ "]*`)

// logText is each distinct line of a log without these values. How often a line comes is not compared: some come once a
// minute at most.
func (s *side) logText() string {
	distinct := map[string]bool{}
	for _, line := range s.proxy.log.Lines() {
		for _, field := range []string{"time", "trace_id", "held"} {
			delete(line, field)
		}
		text, _ := json.Marshal(line)
		if strings.Contains(string(text), tooSlow) {
			continue
		}
		distinct[passing.ReplaceAllString(string(text), "#")] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(distinct)), "\n")
}
