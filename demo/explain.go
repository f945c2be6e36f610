package main

import "context"

// explain shows what the policy says of the story's payloads, by `proxy explain`.
func (st *stage) explain(ctx context.Context) error { return nil }
