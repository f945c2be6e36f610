package rewrite

import (
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// A codec server is handed payloads apart from the messages that they belong to. What becomes of them is decided by the
// same policy, which is told less: see policy.DecideApart.

// RPC names that policies see for payloads apart from a message.
const (
	RPCEncode = "Encode"
	RPCDecode = "Decode"
)

// apartKind is what the account of an answer calls payloads whose kind nobody tells.
const apartKind = "payload"

// apartMethods are what is done with a message of type Payloads, by the names above.
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
			n.fields[i].na = 0 // which facts apply is not known either
		}
		methods[name] = &Method{plan: p, name: name, full: name, request: n, response: n, apart: true}
	}
	return methods, nil
}

// BeginApart starts a session for payloads apart from a message, in a namespace that its caller reaches. rpc is RPCEncode
// or RPCDecode.
func (r *Rewriter) BeginApart(rpc, namespace string, caller *policy.Caller) *Session {
	s := r.Begin(r.apart[rpc], caller)
	s.call.namespace = namespace
	return s
}
