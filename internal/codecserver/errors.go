package codecserver

import (
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

// This file alone chooses HTTP status codes. The Web UI tries again after a 5xx and gives up at a 4xx.

// from starts each message, so that a reader sees who speaks.
const from = "temporal-seal: "

// refusal is an answer with a text made for the caller.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// statusOf maps an error to what the caller gets.
func statusOf(err error) int {
	var refused *refusal
	var unknown *auth.Refusal
	var rewriting *rewrite.Error
	switch {
	case errors.As(err, &refused):
		return refused.status
	case errors.As(err, &unknown):
		return statusOfCaller(unknown.Kind)
	case crypto.KindOf(err) == crypto.KindUnavailable, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	case errors.As(err, &rewriting):
		return statusOfRewriting(rewriting.Kind)
	}
	return http.StatusInternalServerError
}

func statusOfCaller(k auth.Kind) int {
	switch k {
	case auth.Forbidden:
		return http.StatusForbidden
	case auth.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}

func statusOfRewriting(k rewrite.Kind) int {
	switch k {
	case rewrite.KindMalformed, rewrite.KindUnknownField:
		return http.StatusBadRequest
	case rewrite.KindTooLarge:
		return http.StatusRequestEntityTooLarge
	case rewrite.KindDenied:
		return http.StatusForbidden
	case rewrite.KindPolicy, rewrite.KindSealing:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// writeError answers with a JSON document whose text holds no payload, since none of the errors does.
func writeError(w http.ResponseWriter, err error) int {
	status := statusOf(err)
	text, failed := json.Marshal(map[string]string{"message": from + strings.TrimPrefix(crypto.ForCaller(err), from)})
	if failed != nil {
		text = []byte(`{}`)
	}
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
	_, _ = w.Write(text) // a caller that is gone needs no answer
	return status
}
