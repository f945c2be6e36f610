package rewrite

import (
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// A codec server gets payloads without the messages that they belong to. The same policy decides about them, by fewer
// facts: see policy.DecideApart.

const (
	// RPC names that policies see for payloads without a message.
	RPCEncode = "Encode"
	RPCDecode = "Decode"
)

// codecKind is the kind of such payloads in accounts: the real one is unknown.
const codecKind = "payload"

// codecMethods compiles the plans of a message of type Payloads, by the RPC names above.
func codecMethods(p *plan) (map[string]*Method, error) {
	payloads, err := p.messageType(msgPayloads)
	if err != nil {
		return nil, err
	}
	methods := make(map[string]*Method)
	for _, name := range []string{RPCEncode, RPCDecode} {
		n, err := p.compile(name, name == RPCDecode, payloads, "payloads", codecKind)
		if err != nil {
			return nil, err
		}
		for i := range n.fields {
			n.fields[i].na = 0 // which facts apply is unknown, too
		}
		methods[name] = &Method{plan: p, name: name, full: "/codec-server/" + strings.ToLower(name), request: n, response: n, codec: true}
	}
	return methods, nil
}

// BeginCodec starts a session for payloads without a message, in a namespace that the caller may use. rpc
// is RPCEncode or RPCDecode.
func (r *Rewriter) BeginCodec(rpc, namespace string, caller *policy.Caller) *Session {
	s := r.Begin(r.codec[rpc], caller)
	s.call.namespace = namespace
	return s
}
