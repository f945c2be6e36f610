package codecserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/auth"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// This file chooses the HTTP status code for every error of other packages; handler.go and payloads.go choose those of
// requests that they refuse themselves. The Web UI retries after a 5xx and gives up after a 4xx.

// from starts each message, so that a reader sees where it comes from.
const from = "temporal-seal: "

// refusal is an error with a status and a text for the caller.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// refuse returns an error with a status. Its text is for the caller, so no format may hold a payload or a
// token.
func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// statusOf returns the status for an error.
func statusOf(err error) int {
	var refused *refusal
	var unknown *auth.Refusal
	var rewriting *rewrite.Error
	switch {
	case errors.As(err, &refused):
		return refused.status
	case errors.As(err, &unknown):
		return cmp.Or(statusOfRefusal[unknown.Kind], http.StatusUnauthorized)
	case crypto.KindOf(err) == crypto.KindUnavailable,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	case errors.As(err, &rewriting):
		return cmp.Or(statusOfRewriting[rewriting.Kind], http.StatusInternalServerError)
	}
	return http.StatusInternalServerError
}

// statusOfRefusal holds the status for a caller whom package auth refuses, if that is not 401.
var statusOfRefusal = map[auth.Kind]int{
	auth.Forbidden:   http.StatusForbidden,
	auth.Unavailable: http.StatusServiceUnavailable,
}

// statusOfRewriting holds the status for kinds of errors of the rewriter. Others are faults of the proxy.
var statusOfRewriting = map[rewrite.Kind]int{
	rewrite.KindMalformed:    http.StatusBadRequest,
	rewrite.KindUnknownField: http.StatusBadRequest,
	rewrite.KindTooLarge:     http.StatusRequestEntityTooLarge,
	rewrite.KindDenied:       http.StatusForbidden,
	rewrite.KindMemory:       http.StatusServiceUnavailable,
	rewrite.KindPolicy:       http.StatusServiceUnavailable,
	rewrite.KindSealing:      http.StatusServiceUnavailable,
}

// writeError answers with a JSON document, and returns the status. Its text holds no payload, since no error
// does.
func writeError(w http.ResponseWriter, err error) int {
	status := statusOf(err)
	// A map of texts can always be written as JSON.
	text, _ := json.Marshal(map[string]string{"message": from + strings.TrimPrefix(crypto.ForCaller(err), from)})
	h := w.Header()
	h.Set("Content-Type", "application/json")
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "5")
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodPost)
	}
	w.WriteHeader(status)
	_, _ = w.Write(text) // a caller that has left needs no answer
	return status
}
