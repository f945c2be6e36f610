package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
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
  proxy open --config config.yaml history.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "-"
			if len(args) == 1 {
				file = args[0]
			}
			return o.open(cmd.Context(), file, stdout, stderr)
		},
	}
	o.settings.flags(cmd)
	cmd.Flags().StringVar(&o.namespace, "namespace", "", "open what was sealed for this namespace (and granted to it) only; default: what any namespace sealed")
	cmd.Flags().DurationVar(&o.startTimeout, "timeout", defaultStartTimeout, "how long the keys may take to answer")
	return cmd
}

func (o *openOptions) open(ctx context.Context, file string, stdout, stderr io.Writer) error {
	c, err := o.load()
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
		return fmt.Errorf("%s is not JSON: %w; save it with: temporal workflow show --output json", file, err)
	}
	keys, err := o.openKeys(ctx, c, openKey, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer keys.Close()
	h := &historyOpener{ctx: ctx, keys: keys, namespace: o.namespace, realm: c.Realm}
	document = h.value(document, "$")
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		return err
	}
	for _, problem := range h.problems {
		fmt.Fprintf(stderr, "proxy: %s\n", problem)
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
	keys      *crypto.Keyring
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
		for k := range v {
			v[k] = h.value(v[k], path+"."+k)
		}
	case string:
		return h.text(v, path)
	}
	return v
}

// payloadOf reads the JSON form of a payload: metadata and data in base64.
func payloadOf(v map[string]any) (*commonpb.Payload, bool) {
	metadata, ok := v["metadata"].(map[string]any)
	if !ok || metadata["encoding"] == nil {
		return nil, false
	}
	p := &commonpb.Payload{Metadata: map[string][]byte{}}
	for k, value := range metadata {
		if p.Metadata[k], ok = fromBase64(value); !ok {
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
	sealed, marked, err := crypto.ParsePayload(raw)
	if err == nil && !marked {
		return as
	}
	if err == nil {
		raw, err = h.open(&sealed)
	}
	var plain commonpb.Payload
	if err == nil {
		err = proto.Unmarshal(raw, &plain)
	}
	if err != nil {
		return h.problem(as, path, err)
	}
	h.opened++
	var document any
	if string(plain.GetMetadata()["encoding"]) == "json/plain" && json.Unmarshal(plain.GetData(), &document) == nil {
		return document
	}
	metadata := map[string]any{}
	for k, v := range plain.GetMetadata() {
		metadata[k] = string(v)
	}
	return map[string]any{"metadata": metadata, "data": plain.GetData()}
}

func (h *historyOpener) text(v, path string) any {
	if !strings.HasPrefix(v, crypto.TextPrefix) {
		return v
	}
	sealed, marked, err := crypto.ParseText([]byte(v))
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

func (h *historyOpener) open(s *crypto.Sealed) ([]byte, error) {
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
