package server

import (
	"time"
)

// Limits bound what callers can make the proxy hold at once. A call over a limit is refused with
// RESOURCE_EXHAUSTED, which SDKs take as a sign to try again later: requests before they are forwarded, and answers of
// reads before they are opened.
type Limits struct {
	// Connections of callers. One more is closed as soon as it is accepted.
	Connections int
	// Calls are those that the server answers at once. LongPolls wait at the server: for tasks, and for the
	// end of a workflow or an update. They last a minute and need little, so they are counted on their own.
	Calls, LongPolls int
	// Bytes of messages in memory, each counted once. One message needs up to three times its size: as it
	// came, in one piece, and sealed or opened.
	Bytes int64
	// RequestBytes is how large one request may be, as it arrives and decompressed.
	RequestBytes int64
	// ConnectionAge is how long a connection of a caller gets new calls, more or less. 0: for ever.
	ConnectionAge time.Duration
}

// LimitsFor returns the limits that fit into so many bytes of memory.
func LimitsFor(memory int64) Limits {
	return Limits{
		Connections: int(min(max(memory/4/perConnection, 100), mostLimit)),
		Calls:       int(min(max(memory/4/perCall, 100), mostLimit)),
		LongPolls:   int(min(max(memory/3/perLongPoll, 1000), mostLimit)),
		Bytes:       max(memory/perByte, MinBytes),

		RequestBytes: DefaultRequestBytes,
	}
}

const (
	// Upper bounds of the memory that each takes: the buffers and goroutines of a connection; a request's
	// first window and its copies; a long poll; and a byte of a message, of which there are up to three
	// copies, with those that the garbage collector has not found yet, in a third of the memory.
	perConnection = 64 << 10
	perCall       = 128 << 10
	perLongPoll   = 24 << 10
	perByte       = 16

	mostLimit = 1_000_000

	// MinBytes is enough for the largest message that a Temporal frontend accepts by default, beside others.
	MinBytes = 16 << 20

	// DefaultRequestBytes is twice the most that Temporal frontends take by default.
	DefaultRequestBytes = 8 << 20

	// MinRequestBytes is the most that Temporal frontends take by default.
	MinRequestBytes = 4 << 20

	// MinConnectionAge is the least age at which callers' connections may be closed: every such end costs
	// SDKs a new connection, and a load balancer that moves polls more often than they end only makes work.
	MinConnectionAge = 6 * time.Minute

	// copies is how many a message has at most: as received, in one piece, and sealed or opened.
	copies = 3

	// unreserved is the size up to which a message never waits: the limit of calls bounds such messages well
	// enough.
	unreserved = 16 << 10
	// freeHeaders is the size of headers that the limit of calls allows for, and headerCost what each takes
	// beside its bytes.
	freeHeaders = 4 << 10
	headerCost  = 64
	// bytesWait is how long a request waits for the limit of bytes before it is refused. An answer waits
	// answerTries times as long, since it has cost the server work.
	bytesWait   = time.Second
	answerTries = 5

	// keptAccounts is how many accounts of callers are kept that nothing counts in any more.
	keptAccounts = 1000
)
