// Package sizes measures what the clients of key services cost: the size of the binary, the time that it takes to start, and its memory
// then, with all of them and without each that a build tag leaves out. It makes the table of docs/sizing.md.
package sizes
