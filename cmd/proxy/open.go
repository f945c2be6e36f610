package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

type openOptions struct {
	serveOptions
	namespace string
}

func openCommand(stdout, stderr io.Writer) *cobra.Command {
	var o openOptions
	cmd := &cobra.Command{
		Use:   "open [FILE]",
		Short: "Open the payloads of a saved history, with the keys alone (break-glass)",
		Long: `open reads JSON, such as a history saved with "temporal workflow show --output json", from a file or standard input,
and prints it with every sealed payload opened. It needs the keys and asks no policy: whoever may use the keys may read.
The exit code is 1 if something could not be opened; it is printed as it was.`,
		Example: `  temporal workflow show --workflow-id w --output json > history.json
  temporal-seal open --config config.yaml history.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "-"
			if len(args) == 1 {
				file = args[0]
			}
			return o.open(cmd.Context(), file, stdout, stderr)
		},
	}
	addFlags(&o.Flags, cmd)
	cmd.Flags().StringVar(&o.namespace, "namespace", "", "open what was sealed for this namespace (and granted to it) only, and other tools' payloads as it reads them; default: what any namespace sealed")
	cmd.Flags().DurationVar(&o.StartTimeout, "timeout", defaultStartTimeout, "how long the keys may take to answer")
	return cmd
}

func (o *openOptions) open(ctx context.Context, file string, stdout, stderr io.Writer) error {
	c, err := o.Load()
	if err != nil {
		return err
	}
	text, err := readFileOrStdin(file)
	if err != nil {
		return fmt.Errorf("the history cannot be read: %w", err)
	}
	var document any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		where, what := file, "is not JSON: "+err.Error()
		if file == "-" {
			where = "standard input"
		}
		if errors.Is(err, io.EOF) {
			what = "is empty"
		}
		return fmt.Errorf("%s %s; save a history with: temporal workflow show --output json", where, what)
	}
	keys, err := app.OpenKeys(ctx, c, o.StartTimeout, app.OpenKey, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer keys.Close()
	others, err := app.ForeignReader(ctx, c, o.StartTimeout)
	if err != nil {
		return err
	}
	h := &historyOpener{ctx: ctx, keys: keys, others: others, theirs: others.For(o.namespace), namespace: o.namespace, realm: c.Realm}
	document = h.value(document, "$")
	if err := writeJSON(stdout, document); err != nil {
		return err
	}
	for _, problem := range h.problems {
		fmt.Fprintf(stderr, "temporal-seal: %s\n", problem)
	}
	fmt.Fprintf(stderr, "opened %d, %d could not be opened\n", h.opened, len(h.problems))
	if len(h.problems) > 0 {
		return exitCode(1)
	}
	return nil
}

// historyOpener opens what is sealed in a JSON document, wherever it stands.
type historyOpener struct {
	ctx       context.Context
	keys      *keyring.Keyring
	others    *foreign.Reader
	theirs    *foreign.Namespace // others, in namespace
	namespace string
	realm     string

	opened   int
	problems []string
}

func (h *historyOpener) value(v any, path string) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = h.value(v[i], fmt.Sprintf("%s[%d]", path, i))
		}
	case map[string]any:
		if p, ok := payloadOf(v); ok {
			return h.payload(p, v, path)
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			v[k] = h.value(v[k], path+"."+k)
		}
	case string:
		return h.text(v, path)
	}
	return v
}

// encodingText is an encoding's name as people write it.
var encodingText = regexp.MustCompile(`^[a-z]+/[a-z0-9.+_-]+$`)

// payloadOf reads the JSON form of a payload: metadata and data in base64. The Web UI exports what it has decoded with
// the metadata as texts; an envelope among them is in base64 still.
func payloadOf(v map[string]any) (*commonpb.Payload, bool) {
	metadata, ok := v["metadata"].(map[string]any)
	if !ok || metadata["encoding"] == nil {
		return nil, false
	}
	encoding, _ := metadata["encoding"].(string)
	texts := encodingText.MatchString(encoding)
	if name, ok := fromBase64(encoding); ok && encodingText.Match(name) {
		texts = false
	}
	p := &commonpb.Payload{Metadata: map[string][]byte{}}
	for k, value := range metadata {
		text, isText := value.(string)
		if texts && isText && k != keyring.ViewMetadataKey {
			p.Metadata[k] = []byte(text)
		} else if p.Metadata[k], ok = fromBase64(value); !ok {
			return nil, false
		}
	}
	if data, given := v["data"]; given {
		p.Data, ok = fromBase64(data)
	}
	return p, ok
}

func fromBase64(v any) ([]byte, bool) {
	text, ok := v.(string)
	if !ok {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(text)
	return b, err == nil
}

func (h *historyOpener) payload(p *commonpb.Payload, as map[string]any, path string) any {
	raw, err := proto.Marshal(p)
	if err != nil {
		return h.problem(as, path, err)
	}
	raw, marked, err := h.openPayload(raw)
	if err == nil && !marked {
		return as
	}
	var plain commonpb.Payload
	if err == nil {
		err = proto.Unmarshal(raw, &plain)
	}
	if err != nil {
		return h.problem(as, path, err)
	}
	h.opened++
	if document := json.RawMessage(plain.GetData()); string(plain.GetMetadata()["encoding"]) == "json/plain" && json.Valid(document) {
		return document // as it is: numbers keep their digits, objects their order
	}
	metadata := map[string]any{}
	for k, v := range plain.GetMetadata() {
		metadata[k] = string(v)
	}
	return map[string]any{"metadata": metadata, "data": plain.GetData()}
}

// openPayload takes off one layer: this product's own, or the codecs of another tool. marked is false for what is neither.
func (h *historyOpener) openPayload(raw []byte) (out []byte, marked bool, err error) {
	sealed, marked, err := keyring.ParsePayload(raw)
	if err != nil || marked {
		if err == nil {
			out, err = h.open(&sealed)
		}
		return out, true, err
	}
	if h.namespace == "" && h.others.Marked(raw) {
		return nil, true, errors.New("another tool encoded it, and does not say for which namespace: add --namespace")
	}
	var run foreign.Run // a file is no message: there is no limit to what its payloads hold together
	theirs, err := h.theirs.Parse(raw, &run)
	if err != nil || theirs == nil {
		return nil, false, err
	}
	out, _, err = h.theirs.Open(h.ctx, nil, theirs, &run)
	return out, true, err
}

func (h *historyOpener) text(v, path string) any {
	if !strings.HasPrefix(v, keyring.TextPrefix) {
		return v
	}
	sealed, marked, err := keyring.ParseText([]byte(v))
	if err == nil && !marked {
		return v
	}
	var plain []byte
	if err == nil {
		plain, err = h.open(&sealed)
	}
	if err != nil {
		return h.problem(v, path, err)
	}
	h.opened++
	return string(plain)
}

func (h *historyOpener) open(s *keyring.Sealed) ([]byte, error) {
	namespace := h.namespace
	if namespace == "" {
		namespace = s.Header.Namespace
		if h.realm != "" {
			namespace = strings.TrimPrefix(namespace, h.realm+"/")
		}
	}
	plain, _, err := h.keys.Open(h.ctx, nil, s, namespace)
	return plain, err
}

func (h *historyOpener) problem(as any, path string, err error) any {
	h.problems = append(h.problems, strings.TrimPrefix(path, "$.")+": "+err.Error())
	return as
}
