package history

import (
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// attributes and stackTrace are names of a failure's fields in JSON, as protojson writes them and as .proto files have them.
var (
	attributes = []string{"encodedAttributes", "encoded_attributes"}
	stackTrace = []string{"stackTrace", "stack_trace"}
)

// nameIn returns which of the names of a field an object has; the first if it has none.
func nameIn(v map[string]any, names []string) string {
	for _, name := range names {
		if v[name] != nil {
			return name
		}
	}
	return names[0]
}

// failure opens the texts of a failure and its causes where one payload holds them all. What restore does has to be done
// once the rest of the object is opened: only one layer is.
func (h *opener) failure(v map[string]any, path string) (restore func()) {
	nothing := func() {}
	name := nameIn(v, attributes)
	p, asTexts, ok := payloadOf(v[name])
	if !ok || !sealedHere(v) {
		return nothing
	}
	raw, _, err := h.openPayload(p)
	if err != nil {
		return nothing // the payload itself reports it
	}
	texts, ok, err := rewrite.OpenedFailure(raw)
	if err != nil {
		h.problem(v, within(path, "."+name), err)
		return nothing
	}
	if !ok {
		return nothing
	}
	delete(v, name)
	h.opened++
	chain := []map[string]any{v}
	for range texts.Causes {
		cause, ok := chain[len(chain)-1]["cause"].(map[string]any)
		if !ok || sealedHere(cause) {
			break // another envelope holds the texts from here on
		}
		chain = append(chain, cause)
	}
	return func() {
		for i, failure := range chain {
			of := &texts
			if i > 0 {
				of = &texts.Causes[i-1]
			}
			h.restore(failure, of, asTexts)
		}
	}
}

// sealedHere reports whether a failure has encoded attributes with the marker.
func sealedHere(failure map[string]any) bool {
	p, _, ok := payloadOf(failure[nameIn(failure, attributes)])
	if !ok {
		return false
	}
	raw, err := proto.Marshal(p)
	return err == nil && envelope.Marked(raw)
}

// restore puts back the texts of one failure.
func (h *opener) restore(failure map[string]any, texts *rewrite.FailureTexts, asTexts bool) {
	put := func(name, text string) {
		delete(failure, name)
		if text != "" {
			failure[name] = text
		}
	}
	put("message", texts.Message)
	put(nameIn(failure, stackTrace), texts.StackTrace)
	if texts.EncodedAttributes == nil {
		return
	}
	if encoded, err := h.written(texts.EncodedAttributes, asTexts); err == nil {
		failure[nameIn(failure, attributes)] = encoded
	}
}
