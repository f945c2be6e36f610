package tasks

import (
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"
)

// credentials are those of a worker, by which the proxy makes requests in its place after the worker's call: they have to
// outlast it while an activity is paused. Nothing else of the call's metadata is kept, and clear overwrites them.
type credentials struct {
	mu      sync.Mutex
	entries []credential
	cleared bool
}

// credential is one header with one value.
type credential struct {
	name  string
	value []byte
}

// namespaceHeader is what Temporal Cloud routes API keys by.
const namespaceHeader = "temporal-namespace"

// credentialWords are in the names of headers in which credentials travel. Servers can be configured to take them from any header.
var credentialWords = []string{"auth", "token", "jwt", "api-key", "apikey"}

// keepCredentials copies the credentials from the metadata of a call. header is a further one that holds one; "": none.
func keepCredentials(md metadata.MD, header string) *credentials {
	c := new(credentials)
	for name, values := range md {
		holds := func(word string) bool { return strings.Contains(name, word) }
		if name != namespaceHeader && (name != header || header == "") && !slices.ContainsFunc(credentialWords, holds) {
			continue
		}
		for _, v := range values {
			c.entries = append(c.entries, credential{strings.Clone(name), []byte(v)})
		}
	}
	return c
}

// clone returns a copy that is cleared on its own.
func (c *credentials) clone() *credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &credentials{cleared: c.cleared}
	for _, e := range c.entries {
		out.entries = append(out.entries, credential{e.name, slices.Clone(e.value)})
	}
	return out
}

// context returns a context for requests with the credentials; false: they were cleared.
func (c *credentials) context(parent context.Context) (context.Context, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	md := metadata.MD{}
	for _, e := range c.entries {
		md[e.name] = append(md[e.name], string(e.value))
	}
	return metadata.NewOutgoingContext(parent, md), !c.cleared
}

// size is what the credentials take, in bytes.
func (c *credentials) size() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		n += len(e.name) + len(e.value)
	}
	return n
}

// clear overwrites the credentials.
func (c *credentials) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		clear(e.value)
	}
	c.entries, c.cleared = nil, true
}
