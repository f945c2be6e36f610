package codecserver

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// readPayloads reads the JSON form of Payloads. Fields that a newer release of Temporal adds to a payload may
// be discarded if the payload is only shown; one that is stored must not lose them.
func readPayloads(body []byte, rpc string) (*commonpb.Payloads, error) {
	list := new(commonpb.Payloads)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: rpc == rewrite.RPCDecode}).Unmarshal(body, list); err != nil {
		// protojson's own message may quote the body.
		return nil, refuse(http.StatusBadRequest, "the body is not the JSON form of temporal.api.common.v1.Payloads: {\"payloads\": [{\"metadata\": {\"encoding\": base64}, \"data\": base64}]}")
	}
	if n := len(list.Payloads); n > maxPayloads {
		return nil, refuse(http.StatusRequestEntityTooLarge, "%d payloads at once, and %d are the most: send them in several requests", n, maxPayloads)
	}
	return list, nil
}

// writePayloads returns the JSON form, which has the list even if it is empty.
func writePayloads(list []*commonpb.Payload) (text []byte, err error) {
	text = append(text, `{"payloads":[`...)
	for i, p := range list {
		if i > 0 {
			text = append(text, ',')
		}
		if text, err = (protojson.MarshalOptions{}).MarshalAppend(text, p); err != nil {
			return nil, refuse(http.StatusInternalServerError, "payload %d cannot be written as JSON", i)
		}
	}
	return append(text, `]}`...), nil
}

// rewriteList has a list sealed or opened by run, in the binary form of Payloads.
func rewriteList(
	ctx context.Context, run func(context.Context, []byte) ([]byte, error), list []*commonpb.Payload,
) ([]*commonpb.Payload, error) {
	raw, err := proto.Marshal(&commonpb.Payloads{Payloads: list})
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the metadata of a payload is not UTF-8")
	}
	defer clear(raw)
	out, err := run(ctx, raw)
	if err != nil {
		return nil, err
	}
	answer := new(commonpb.Payloads)
	if err := proto.Unmarshal(out, answer); err != nil || len(answer.Payloads) != len(list) {
		return nil, refuse(http.StatusInternalServerError, "the result cannot be read; please report this")
	}
	return answer.Payloads, nil
}

// openTexts opens the sealed texts in JSON strings, such as the message of a failed query. It leaves out what
// came as an envelope: that has lost a layer already, and loses no second one.
func openTexts(ctx context.Context, session *rewrite.Session, in, out []*commonpb.Payload) {
	for i, p := range in {
		if string(p.GetMetadata()["encoding"]) != "json/plain" || !bytes.Contains(p.GetData(), []byte(envelope.TextPrefix)) {
			continue
		}
		var text string
		if json.Unmarshal(p.Data, &text) != nil {
			continue
		}
		// A text that does not open stays as it is: the caller sees the envelope.
		opened, ok := session.Text(ctx, []byte(text))
		if !ok {
			continue
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(string(opened)) == nil {
			out[i].Data = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
		}
	}
}
