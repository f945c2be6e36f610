package rewrite

import (
	"errors"
	"unsafe"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// Memory counts what the rewriting of a call's messages takes beside their bytes.
type Memory interface {
	// Charge counts n bytes more, or less. It never waits. Its error says that they are
	// not free now, or wraps ErrTooMuch.
	Charge(n int64) error
}

// ErrTooMuch means that a message takes more memory than one message may, whatever
// others take.
var ErrTooMuch = errors.New("it takes more memory than one message may, by the number of its parts or by what it opens to")

const (
	// chargeStep is how much is charged at once, and what each message has free beside its size.
	chargeStep = 64 << 10
	// maxMemory is what the parts of one message may take.
	maxMemory = 2 * MaxOpened
	// MaxOpened is the size that a message may open to. SDKs receive no larger ones.
	MaxOpened = 128 << 20
)

// meter charges the memory of one session in steps, so that an ordinary message pays
// one comparison for each of its parts. Nil: nothing is counted.
type meter struct {
	memory  Memory // nil: unlimited but for maxMemory
	rpc     string
	free    int // may be taken before more is charged
	charged int64
	opened  int64 // is what was decompressed
}

// opens counts n bytes before they are decompressed.
func (c *call) opens(n int) error {
	m := c.meter
	if m.opened += int64(n); m.opened > MaxOpened {
		return m.fail(ErrTooMuch)
	}
	return m.take(n)
}

// CountIn has what the session's messages take counted there.
func (s *Session) CountIn(m Memory) { s.meter.memory = m }

// Decodes counts what a message takes that is about to be decoded, until done is called.
// It is counted apart from what the session seals or opens meanwhile.
func (s *Session) Decodes(d protoreflect.MessageDescriptor, in []byte) (done func(), err error) {
	s.meter.begin(s.call.method.name, 0) // what it has opened before is of no use
	m := &meter{memory: s.meter.memory}
	m.begin(s.call.method.name, len(in))
	return m.decodes(d, in)
}

// CountAnswer counts an answer to a request of the proxy's own that is about to be decoded, until done is
// called: unlike those of a call, its bytes are counted nowhere else.
func CountAnswer(
	memory Memory, method string, d protoreflect.MessageDescriptor, in []byte,
) (done func(), err error) {
	m := &meter{memory: memory}
	m.begin(method, 0)
	if err := m.take(arrivingCopies * len(in)); err != nil {
		return nil, err
	}
	return m.decodes(d, in)
}

// arrivingCopies is how often the bytes of an answer are in memory at most before it is decoded: as they came,
// and in one piece.
const arrivingCopies = 2

// decodes is Decodes for a message that was begun.
func (m *meter) decodes(d protoreflect.MessageDescriptor, in []byte) (done func(), err error) {
	if err = m.takeDecoded(d, in, 0); err != nil {
		m.begin("", 0)
	}
	return func() { m.begin("", 0) }, err
}

// begin starts a message of that size. What was charged for the one before is given back.
func (m *meter) begin(rpc string, size int) {
	if m.charged > 0 && m.memory != nil {
		_ = m.memory.Charge(-m.charged) // cannot fail
	}
	m.rpc, m.free, m.charged, m.opened = rpc, chargeStep+size, 0, 0
}

// take counts n bytes. An error is one of this package.
func (m *meter) take(n int) error {
	if m == nil {
		return nil
	}
	if m.free -= n; m.free >= 0 {
		return nil
	}
	return m.charge()
}

// Charge is take for others that build something from a message.
func (m *meter) Charge(n int64) error { return m.take(int(n)) }

// charge charges as many steps as are missing.
func (m *meter) charge() error {
	n := int64(-m.free+chargeStep-1) / chargeStep * chargeStep
	err := error(ErrTooMuch)
	if m.charged+n <= maxMemory {
		err = nil
		if m.memory != nil {
			err = m.memory.Charge(n)
		}
	}
	if err == nil {
		m.charged += n
		m.free += int(n)
		return nil
	}
	return m.fail(err)
}

// fail returns the error of a message that does not get what it takes.
func (m *meter) fail(err error) error {
	kind := KindMemory
	if errors.Is(err, ErrTooMuch) {
		kind = KindTooLarge
	}
	return &Error{Kind: kind, RPC: m.rpc, Err: err}
}

// What the parts of a message take. A list that grows is copied, so each element counts twice.
const (
	boxCost     = 2 * int(unsafe.Sizeof(box{}))
	slotCost    = 2*int(unsafe.Sizeof(slot{})) + boxCost
	scopeCost   = 2 * int(unsafe.Sizeof(scope{}))
	failureCost = 2 * int(unsafe.Sizeof(failureParts{}))
	editCost    = 2 * int(unsafe.Sizeof(edit{}))
	sealCost    = 2*int(unsafe.Sizeof(sealItem{})) + editCost
	textsCost   = 2*int(unsafe.Sizeof(failureTexts{})) + 3*editCost
	openCost    = 2*int(unsafe.Sizeof(openItem{})) + editCost
)

// What protobuf-go takes for a decoded message without descriptors of its own: for each message, and for each field or
// element of a list. What takes long without taking memory counts as well: the size of a message is found out once for each
// message around it.
const (
	decodedMessage = 1 << 10
	decodedField   = 96
	decodedDepth   = 16
)

// takeDecoded counts what a message takes when it is decoded and encoded again, before
// that is done. It ignores errors of the encoding: the decoder finds them.
func (m *meter) takeDecoded(d protoreflect.MessageDescriptor, in []byte, depth int) error {
	if m == nil || depth > wire.MaxDepth {
		return nil
	}
	if err := m.take(decodedMessage + depth*decodedDepth); err != nil {
		return err
	}
	fields := d.Fields()
	r := wire.ReadIn(in, 0, len(in), depth)
	for r.Next() {
		n := decodedField + 2*len(r.Value())
		fd := fields.ByNumber(r.Number())
		inner := fd != nil && fd.Message() != nil && r.Bytes()
		if fd != nil && fd.IsList() && !inner && r.Bytes() {
			n += len(r.Value()) * decodedField / 2 // packed numbers, or a text
		}
		if inner {
			n = decodedField
			if err := m.takeDecoded(fd.Message(), r.Value(), depth+1); err != nil {
				return err
			}
		}
		if err := m.take(n); err != nil {
			return err
		}
	}
	return nil
}

// takeJSON counts what a message takes when it is decoded from JSON.
func (m *meter) takeJSON(document []byte) error {
	n := 4 * len(document)
	for _, b := range document {
		switch b {
		case '{', '[':
			n += decodedMessage
		case ',', ':':
			n += decodedField
		}
	}
	return m.take(n)
}
