// Package kmsstub is a small AWS KMS that speaks the JSON 1.1 protocol over HTTP. It was written from AWS's
// public API reference and exists for one reason: unlike KMS it can be told to fail, in every way KMS is
// documented to fail. It keeps its keys in memory and guards nothing; it is a test peer, never a key store.
package kmsstub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options configure a Server. The zero value is usable.
type Options struct {
	Account string // default 111122223333, the account of AWS's own examples
	Region  string // default eu-central-1
	Now     func() time.Time
}

// Call is one request that the server answered, refused or left hanging.
type Call struct {
	Op          string
	KeyID       string // as the caller named it: id, ARN, alias; empty where left out
	AccessKeyID string
	Region      string // of the request's signature
	Context     map[string]string
	Error       string // the error type that was answered, if any
}

// Server is the KMS. It is an http.Handler; Start also gives it an address.
type Server struct {
	account, region string
	now             func() time.Time

	// URL is the endpoint to configure in a client. Empty until Start.
	URL string

	mu      sync.Mutex
	keys    map[string]*key
	aliases map[string]string // alias/name -> key id
	denied  map[string]string // access key id -> error type
	script  map[string][]Fault
	always  map[string]Fault
	calls   []Call
	file    string // where keys are kept; empty: nowhere

	http *http.Server
}

// New makes a server without keys.
func New(o Options) *Server {
	s := &Server{
		account: o.Account, region: o.Region, now: o.Now,
		keys: map[string]*key{}, aliases: map[string]string{}, denied: map[string]string{},
		script: map[string][]Fault{}, always: map[string]Fault{},
	}
	if s.account == "" {
		s.account = "111122223333"
	}
	if s.region == "" {
		s.region = "eu-central-1"
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Start listens on addr (":0" takes a free port) and serves until Close.
func (s *Server) Start(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("kms stub: listen on %s: %w", addr, err)
	}
	s.URL = "http://" + l.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.http.Serve(l) }() // ends with ErrServerClosed
	return nil
}

// Close stops listening and cuts every connection, those of hanging calls too.
func (s *Server) Close() {
	if s.http != nil {
		_ = s.http.Close()
	}
}

// Calls returns what was asked so far, oldest first.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// ResetCalls forgets the calls so far.
func (s *Server) ResetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// DenyCaller answers everything that is signed with this access key id with errType, for example
// "AccessDeniedException" or "ExpiredTokenException"; an empty errType lifts it.
func (s *Server) DenyCaller(accessKeyID, errType string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errType == "" {
		delete(s.denied, accessKeyID)
		return
	}
	s.denied[accessKeyID] = errType
}

const targetPrefix = "TrentService."

// ServeHTTP answers one API call: POST /, X-Amz-Target: TrentService.<Operation>, a JSON document each way.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), targetPrefix)
	if !ok || r.Method != http.MethodPost {
		writeError(w, fail("UnknownOperationException", ""))
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return // the caller went away
	}
	call := Call{Op: op}
	call.AccessKeyID, call.Region = credential(r.Header.Get("Authorization"))

	if f, ok := s.fault(op); ok {
		call.Error = f.name()
		s.record(call, body)
		if !f.play(w, r) {
			return
		}
	}
	out, err := s.answer(op, call, body)
	if err != nil {
		var e *apiError
		if !errors.As(err, &e) {
			e = fail("KMSInternalException", err.Error())
		}
		call.Error = e.Type
		s.record(call, body)
		writeError(w, e)
		return
	}
	s.record(call, body)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(out) // a caller that went away is not our concern
}

func (s *Server) record(c Call, body []byte) {
	var req struct {
		KeyId             string
		EncryptionContext map[string]string
	}
	_ = json.Unmarshal(body, &req) // a body that is no JSON has been answered as such
	c.KeyID, c.Context = req.KeyId, req.EncryptionContext
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
}

// credential reads the access key id and the region out of a Signature Version 4 header. The signature itself
// is not verified: the stub holds no secrets, and clients sign with whatever a test gave them.
func credential(authorization string) (accessKeyID, region string) {
	_, rest, ok := strings.Cut(authorization, "AWS4-HMAC-SHA256 Credential=")
	if !ok {
		return "", ""
	}
	scope, _, _ := strings.Cut(rest, ",")
	parts := strings.Split(scope, "/") // id/date/region/service/aws4_request
	if len(parts) != 5 || parts[3] != "kms" {
		return "", ""
	}
	return parts[0], parts[2]
}

func (s *Server) answer(op string, call Call, body []byte) (any, error) {
	if call.AccessKeyID == "" {
		return nil, fail("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	handle, ok := operations[op]
	if !ok {
		return nil, fail("UnknownOperationException", "")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if errType, ok := s.denied[call.AccessKeyID]; ok {
		return nil, fail(errType, "User: arn:aws:iam::"+s.account+":user/"+call.AccessKeyID+
			" is not authorized to perform: kms:"+op)
	}
	out, err := handle(s, call.Region, body)
	if err == nil && changing[op] {
		err = s.save()
	}
	return out, err
}
