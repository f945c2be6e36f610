package kmsstub

import (
	"encoding/json"
	"net/http"
	"time"
)

// Fault is one way for a call to go wrong. Exactly one of Error, Hang and Reset is set, or none with Delay
// alone: then the call is answered, but late.
type Fault struct {
	Error   string // an error type of the API, for example "ThrottlingException"
	Message string
	Status  int  // HTTP status, where it shall differ from the documented one
	Hang    bool // never answered: the connection stays open until the caller gives up
	Reset   bool // the connection is cut without an answer
	Delay   time.Duration
}

// Script queues faults for the next calls of op ("" means any operation), one each, first in first out.
func (s *Server) Script(op string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script[op] = append(s.script[op], faults...)
}

// Always makes every call of op ("" means any operation) fail this way until Heal.
func (s *Server) Always(op string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always[op] = f
}

// Heal forgets all faults, scripted and permanent.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script, s.always = map[string][]Fault{}, map[string]Fault{}
}

// fault takes the next fault for op: scripted ones first, those for this operation before those for any.
func (s *Server) fault(op string) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{op, ""} {
		if q := s.script[name]; len(q) > 0 {
			s.script[name] = q[1:]
			return q[0], true
		}
	}
	for _, name := range []string{op, ""} {
		if f, ok := s.always[name]; ok {
			return f, true
		}
	}
	return Fault{}, false
}

func (f Fault) name() string {
	switch {
	case f.Hang:
		return "hang"
	case f.Reset:
		return "reset"
	default:
		return f.Error
	}
}

// play does to the caller what the fault says; true means that the call is to be answered after all.
func (f Fault) play(w http.ResponseWriter, r *http.Request) bool {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return false
		}
	}
	switch {
	case f.Hang:
		<-r.Context().Done()
		return false
	case f.Reset:
		panic(http.ErrAbortHandler) // net/http's documented way to cut a connection without an answer
	case f.Error != "":
		e := fail(f.Error, f.Message)
		if f.Status != 0 {
			e.Status = f.Status
		}
		writeError(w, e)
		return false
	}
	return true
}

// apiError is an error answer of the API.
type apiError struct {
	Status  int    `json:"-"`
	Type    string `json:"__type"`
	Message string `json:"message,omitempty"`
}

func (e *apiError) Error() string { return e.Type + ": " + e.Message }

// statuses are the documented HTTP status codes that are not 400.
var statuses = map[string]int{
	"DependencyTimeoutException":    http.StatusInternalServerError,
	"KeyUnavailableException":       http.StatusInternalServerError,
	"KMSInternalException":          http.StatusInternalServerError,
	"InternalFailure":               http.StatusInternalServerError,
	"ServiceUnavailableException":   http.StatusServiceUnavailable,
	"IncompleteSignatureException":  http.StatusForbidden,
	"InvalidClientTokenIdException": http.StatusForbidden,
}

func fail(errType, message string) *apiError {
	status, ok := statuses[errType]
	if !ok {
		status = http.StatusBadRequest
	}
	return &apiError{Status: status, Type: errType, Message: message}
}

func writeError(w http.ResponseWriter, e *apiError) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Errortype", e.Type)
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}
