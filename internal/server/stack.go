package server

// stackNeeded is about how deep the stack of a call gets in its handler and in gRPC below it.
const stackNeeded = 10 << 10

// deepen makes the stack of a call's goroutine large enough at once. It starts with 2 KiB and is doubled whenever it is
// full, which moves all of its frames: deep in a handler that is a tenth of a small call's CPU time, at its start there
// are few. Calls that wait are left with what they need: they are held by the thousand.
//
//go:noinline
func deepen(n int) byte {
	var room [stackNeeded]byte
	return room[n]
}
