package rewrite

import (
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// A codec server gets payloads without the messages that they belong to. The same policy decides about them, by fewer
// facts: see policy.DecideApart.

const (
	// RPC names that policies see for payloads without a message.
	RPCEncode = "Encode"
	RPCDecode = "Decode"
)

// apartKind is the kind of such payloads in accounts: the real one is unknown.
const apartKind = "payload"

// apartMethods compiles the plans of a message of type Payloads, by the RPC names above.
func apartMethods(p *plan) (map[string]*Method, error) {
	payloads, err := p.messageType(msgPayloads)
	if err != nil {
		return nil, err
	}
	methods := make(map[string]*Method)
	for _, name := range []string{RPCEncode, RPCDecode} {
		n, err := p.compile(name, name == RPCDecode, payloads, "payloads", apartKind)
		if err != nil {
			return nil, err
		}
		for i := range n.fields {
			n.fields[i].na = 0 // which facts apply is unknown, too
		}
		methods[name] = &Method{plan: p, name: name, full: name, request: n, response: n, apart: true}
	}
	return methods, nil
}

// BeginApart starts a session for payloads without a message, in a namespace that the caller may use. rpc
// is RPCEncode or RPCDecode.
func (r *Rewriter) BeginApart(rpc, namespace string, caller *policy.Caller) *Session {
	s := r.Begin(r.apart[rpc], caller)
	s.call.namespace = namespace
	return s
}
