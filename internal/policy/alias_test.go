package policy

import "unsafe"

// aliased is a string over the bytes of a message, as the rewriter hands in.
func aliased(b []byte) string { return unsafe.String(&b[0], len(b)) }
