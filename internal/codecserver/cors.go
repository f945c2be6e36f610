package codecserver

import "net/http"

// Browsers name the page that a request comes from, and withhold the answer from a page that the answer does
// not allow. A request from any other page is refused before anything else: a page that a user happens to
// visit must not make the codec server on their machine work for it.

// preflightAge is how long a browser may keep the answer to a preflight, in seconds.
const preflightAge = "600"

// allowOrigin reports whether the request comes from an allowed page or from no page, and writes the headers
// that let an allowed page read the answer, errors included.
func (s *Server) allowOrigin(h http.Header, r *http.Request) bool {
	h.Add("Vary", "Origin")
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true // not a browser
	}
	if len(origins) > 1 || !s.origins[origins[0]] {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origins[0])
	h.Set("Access-Control-Allow-Credentials", "true") // for an authenticating proxy in front; no cookie is read here
	return true
}

// preflight writes the headers that name what an allowed page may send.
func preflight(h http.Header, r *http.Request) {
	h.Set("Access-Control-Allow-Methods", http.MethodPost)
	h.Set("Access-Control-Allow-Headers", "Content-Type, X-Namespace, Authorization, Authorization-Extras, Traceparent, Tracestate")
	h.Set("Access-Control-Max-Age", preflightAge)
	if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		h.Set("Access-Control-Allow-Private-Network", "true") // a page on the internet, a codec server on this network
	}
}
