package readers

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// outcome is what somebody gets of a value.
type outcome string

const (
	opened      outcome = "open"
	placeholder outcome = "placeholder"
	ciphertext  outcome = "ciphertext"
	refused     outcome = "refused"
	mixed       outcome = "something else"
)

// api is a way to read the payloads of one workflow.
type api struct {
	name string
	// whole: what may not be read refuses the whole answer, since workers replay it.
	whole bool
	read  func(b *bench, namespace, workflow, token string) outcome
}

var apis = []api{
	{name: "gRPC history", whole: true, read: (*bench).readHistory},
	{name: "gRPC describe", read: (*bench).readDescription},
	{name: "codec server", read: (*bench).readCodec},
	{name: "temporal CLI", read: (*bench).readCLI},
}

// value is what stands in the payloads of a workflow.
func value(namespace, workflow string) string { return "CANARY-" + namespace + "-" + workflow }

// classify returns what a reader got of a payload.
func classify(p *commonpb.Payload, want string) outcome {
	switch encoding := string(p.GetMetadata()["encoding"]); {
	case strings.Contains(encoding, "sealed"):
		return ciphertext
	case encoding == "json/plain":
		var text string
		if converter.GetDefaultDataConverter().FromPayload(p, &text) != nil {
			return mixed
		}
		switch text {
		case want:
			return opened
		case "[sealed]":
			return placeholder
		}
	}
	return mixed
}

// same is the outcome that all of them have.
func same(all ...outcome) outcome {
	if len(all) == 0 {
		return mixed
	}
	for _, o := range all[1:] {
		if o != all[0] {
			return mixed
		}
	}
	return all[0]
}

func (b *bench) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.Context(), 30*time.Second)
}

// stored are the payloads of a workflow as a client reads them in its history: input and memo.
func stored(ctx context.Context, c client.Client, workflow string) ([]*commonpb.Payload, error) {
	events := c.GetWorkflowHistory(ctx, workflow, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !events.HasNext() {
		return nil, nil
	}
	first, err := events.Next()
	if err != nil {
		return nil, err
	}
	a := first.GetWorkflowExecutionStartedEventAttributes()
	return append(a.GetInput().GetPayloads(), a.GetMemo().GetFields()["note"]), nil
}

func (b *bench) readHistory(namespace, workflow, token string) outcome {
	ctx, cancel := b.context()
	defer cancel()
	c := b.dial(b.people, namespace, token)
	defer c.Close()
	payloads, err := stored(ctx, c, workflow)
	if err != nil {
		return b.refusedBy(err, workflow)
	}
	return b.judgeAll(payloads, namespace, workflow)
}

func (b *bench) readDescription(namespace, workflow, token string) outcome {
	ctx, cancel := b.context()
	defer cancel()
	c := b.dial(b.people, namespace, token)
	defer c.Close()
	answer, err := c.DescribeWorkflowExecution(ctx, workflow, "")
	if err != nil {
		return b.refusedBy(err, workflow)
	}
	return b.judgeAll([]*commonpb.Payload{answer.GetWorkflowExecutionInfo().GetMemo().GetFields()["note"]}, namespace, workflow)
}

// refusedBy looks at a refusal: it says that the proxy spoke, and nothing of the value.
func (b *bench) refusedBy(err error, workflow string) outcome {
	text := err.Error()
	if strings.Contains(text, "CANARY") || !strings.Contains(text, "temporal-seal") {
		b.Errorf("%s: refused with %q", workflow, text)
		return mixed
	}
	return refused
}

func (b *bench) judgeAll(payloads []*commonpb.Payload, namespace, workflow string) outcome {
	var all []outcome
	for _, p := range payloads {
		all = append(all, classify(p, value(namespace, workflow)))
	}
	return same(all...)
}

// readCodec takes what the server stores to the codec server, as the Web UI does.
func (b *bench) readCodec(namespace, workflow, token string) outcome {
	ctx, cancel := b.context()
	defer cancel()
	direct := b.dial(b.server.Address, namespace, "")
	defer direct.Close()
	sealed, err := stored(ctx, direct, workflow)
	if err != nil || b.judgeAll(sealed, namespace, workflow) != ciphertext {
		b.Fatalf("the server stores %v, %v", sealed, err)
	}
	status, payloads := b.decode(ctx, namespace, token, sealed)
	if status != http.StatusOK {
		return refused
	}
	if len(payloads) != len(sealed) {
		return mixed
	}
	return b.judgeAll(payloads, namespace, workflow)
}

// decode asks the codec server.
func (b *bench) decode(ctx context.Context, namespace, token string, list []*commonpb.Payload) (int, []*commonpb.Payload) {
	b.Helper()
	body, err := protojson.Marshal(&commonpb.Payloads{Payloads: list})
	if err != nil {
		b.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.codec+"/decode?preserveStorageRefs=true", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Namespace", namespace)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := b.https.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text := new(bytes.Buffer)
	if _, err := text.ReadFrom(answer.Body); err != nil {
		b.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		if strings.Contains(text.String(), "CANARY") || !strings.Contains(text.String(), "temporal-seal: ") {
			b.Errorf("refused with %s", text)
		}
		return answer.StatusCode, nil
	}
	out := new(commonpb.Payloads)
	if err := protojson.Unmarshal(text.Bytes(), out); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	return answer.StatusCode, out.Payloads
}

// readCLI has the Temporal CLI show a history that it reads past the proxy and has the codec server decode.
func (b *bench) readCLI(namespace, workflow, token string) outcome {
	ctx, cancel := b.context()
	defer cancel()
	before := b.codecRefusals()
	// Refused, the CLI tries again until its time is up, and then reports that alone: so it gets little time at first.
	var out string
	failed := true
	for _, limit := range []string{"2s", "25s"} {
		if !failed || b.codecRefusals() > before {
			break
		}
		out, failed = b.cli(ctx, token, "workflow", "show", "--namespace", namespace, "--workflow-id", workflow, "--output", "json", "--command-timeout", limit)
	}
	base64JSON := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(`"` + text + `"`)) }
	sealed := base64.StdEncoding.EncodeToString([]byte("binary/sealed.v1"))
	switch found := [3]int{strings.Count(out, base64JSON(value(namespace, workflow))), strings.Count(out, base64JSON("[sealed]")), strings.Count(out, sealed)}; {
	case failed && found == [3]int{} && b.codecRefusals() > before:
		return refused
	case !failed && found == [3]int{2, 0, 0}:
		return opened
	case !failed && found == [3]int{0, 2, 0}:
		return placeholder
	case !failed && found == [3]int{0, 0, 2}:
		return ciphertext
	}
	b.Logf("the CLI (failed: %v) writes %s", failed, out)
	return mixed
}

// refusedDecodes matches the count of the codec server's answers 401 and 403 to a request for values.
var refusedDecodes = regexp.MustCompile(`(?m)^http_server_request_duration_seconds_count\{http_response_status_code="40[13]",http_route="/decode"\} (\d+)$`)

// codecRefusals counts what the codec server has refused so far. The log would not do: it leaves repeated lines out.
func (b *bench) codecRefusals() (n int) {
	b.Helper()
	_, page, err := b.proxy.Get("/metrics")
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range refusedDecodes.FindAllStringSubmatch(page, -1) {
		count, err := strconv.Atoi(m[1])
		if err != nil {
			b.Fatal(err)
		}
		n += count
	}
	return n
}

func (b *bench) cli(ctx context.Context, token string, args ...string) (out string, failed bool) {
	b.Helper()
	bin, err := peers.BuildCLI(ctx, os.Stderr)
	if err != nil {
		b.Fatal(err)
	}
	args = append(args, "--address", b.server.Address, "--codec-endpoint", b.codec, "--disable-config-file")
	if token != "" {
		args = append(args, "--codec-auth", "Bearer "+token)
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+b.ca, "HOME="+b.dir)
	text, err := cmd.CombinedOutput()
	return string(text), err != nil
}
