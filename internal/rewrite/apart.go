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

// apartMethods are the two things to do with a message of type Payloads.
type apartMethods struct{ encode, decode *Method }

func newApartMethods(p *plan) (apartMethods, error) {
	payloads, err := p.messageType(msgPayloads)
	if err != nil {
		return apartMethods{}, err
	}
	method := func(name string, response bool) (*Method, error) {
		c := compiler{plan: p, method: name, response: response}
		n, err := c.compile(payloads, "payloads", apartKind)
		for i := range n.fields {
			n.fields[i].na = 0 // which facts apply is not known either
		}
		return &Method{plan: p, name: name, full: name, request: n, response: n, apart: true}, err
	}
	encode, err := method(RPCEncode, false)
	if err != nil {
		return apartMethods{}, err
	}
	decode, err := method(RPCDecode, true)
	return apartMethods{encode, decode}, err
}

// BeginApart starts a call about payloads apart from a message, in a namespace that its caller reaches. rpc is RPCEncode
// or RPCDecode.
func (r *Rewriter) BeginApart(rpc, namespace string, caller *policy.Caller) *Session {
	m := r.apart.decode
	if rpc == RPCEncode {
		m = r.apart.encode
	}
	s := r.Begin(m, caller)
	s.call.namespace = namespace
	return s
}
