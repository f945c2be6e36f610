package server

import (
	"fmt"
	"regexp"
	"strconv"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// gRPC reports a message over the receiver's limit by a status whose text alone distinguishes it from other
// exhausted resources. TestTextOfTooLargeMessages fails where a later gRPC has another text.

// tooLarge is gRPC's text for a message over the receiver's limit. Workers report it to the server, which
// then terminates the workflow.
var tooLarge = regexp.MustCompile(`grpc: received message larger than max \((\d+) vs\. (\d+)\)`)

// tooLong uses gRPC's words, which SDKs look for.
func tooLong(length, limit int64) error {
	return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", length, limit)
}

// grownTooLarge reports whether the upstream refused a message for its size that it would have taken
// unsealed, and gives an answer that does not end the workflow. sent is the size that it had: the same words
// of gRPC may be about an answer.
func grownTooLarge(st *spb.Status, plain, sent int) (*spb.Status, bool) {
	if codes.Code(st.GetCode()) != codes.ResourceExhausted {
		return nil, false
	}
	found := tooLarge.FindStringSubmatch(st.GetMessage())
	if found == nil {
		return nil, false
	}
	limit, err := strconv.Atoi(found[2])
	if err != nil || plain > limit || found[1] != strconv.Itoa(sent) {
		return nil, false
	}
	return &spb.Status{Code: int32(codes.InvalidArgument), Message: fmt.Sprintf(
		"%sthe message of %d bytes exceeds the server's limit of %d by being sealed (%s bytes): send less at once, "+
			"or raise the server's limit", from, plain, limit, found[1])}, true
}
