// Package blackbox drives a built proxy from both of its sides without a Temporal server: a client sends the bytes of a
// request, a scripted frontend receives what the proxy forwards and answers with the bytes that the test chose. Neither
// side decodes a message unless the test does, so hostile encodings pass as they are.
//
// Tests and commands that use it know the proxy by its flags, its config, its listeners, its log and its metrics, and by
// nothing else. They hold for every layout of the code behind these.
package blackbox
