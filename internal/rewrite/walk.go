package rewrite

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"
)

// payloadMark is how the metadata entry for `encoding` starts in every
// payload that an SDK writes: bytes without it hold no such payload.
var payloadMark = []byte("\x0a\x08encoding\x12")

// walk is one pass over the bytes of one message.
type walk struct {
	plan     *plan
	method   string
	response bool
	strict   bool // refuse every unknown field

	buf      []byte
	boxes    []box
	slots    []slot
	scopes   []scope
	failures []failureParts
	name     span
	// irregular is set when a field that counts once comes twice. Such a message is legal, and merged by whoever
	// decodes it; it is brought into the regular form before anything is decided.
	irregular bool
	unknown   int // fields that this build does not know
	refused   error
}

func (w *walk) reset(buf []byte) {
	w.buf = buf
	w.boxes, w.slots, w.scopes, w.failures = w.boxes[:0], w.slots[:0], w.scopes[:0], w.failures[:0]
	w.name, w.irregular, w.unknown, w.refused = span{}, false, 0, nil
}

// run walks a whole message.
func (w *walk) run(n *node) error {
	w.scopes = append(w.scopes, scope{parent: -1, task: w.handsOut(n)})
	return w.message(n, 0, len(w.buf), -1, 0, 0)
}

// message walks the content buf[start:end] of a message of type n.
func (w *walk) message(n *node, start, end int, parent, outer int32, depth int) error {
	if depth > maxDepth {
		return errDepth
	}
	sc := outer
	if n.scope && parent >= 0 { // the root has its own already
		w.scopes = append(w.scopes, scope{parent: outer, task: w.handsOut(n)})
		sc = int32(len(w.scopes) - 1)
	}
	failure := -1
	if n.failure {
		failure = len(w.failures)
		w.failures = append(w.failures, failureParts{box: parent, content: span{int32(start), int32(end)},
			stackPlace: int32(end), attributesPlace: int32(end)})
	}
	buf := w.buf
	var seen uint64
	for i := start; i < end; {
		at := i
		tag := uint64(buf[i])
		i++
		if tag >= 0x80 {
			if tag, i = uvarint(buf, at, end); i < 0 {
				return varintError(i)
			}
		}
		num := protowire.Number(tag >> 3)
		if tag>>3 > uint64(protowire.MaxValidNumber) || num == 0 {
			return errWireType
		}
		if failure >= 0 && num > numFailureStackTrace {
			w.failures[failure].place(num, int32(at), int32(end))
		}
		wire := protowire.Type(tag & 7)
		lenPos := i
		from := i
		switch wire {
		case protowire.VarintType:
			if _, i = uvarint(buf, i, end); i < 0 {
				return varintError(i)
			}
		case protowire.Fixed64Type:
			i += 8
		case protowire.Fixed32Type:
			i += 4
		case protowire.BytesType:
			var size uint64
			if i < end && buf[i] < 0x80 {
				size = uint64(buf[i])
				i++
			} else if size, i = uvarint(buf, i, end); i < 0 {
				return varintError(i)
			}
			if size > uint64(end-i) {
				return errTruncated
			}
			from = i
			i += int(size)
		case protowire.StartGroupType:
			var err error
			if i, err = skipGroup(buf, i, end, num, depth+1); err != nil {
				return err
			}
		case protowire.EndGroupType:
			return errGroup
		default:
			return errWireType
		}
		if i > end {
			return errTruncated
		}
		var f *field
		if int(num) < len(n.fields) {
			f = &n.fields[num]
		} else {
			f = n.high[num]
		}
		if f == nil || f.op == opUnknown || (f.wire != wire && !(f.packable && wire == protowire.BytesType)) {
			w.unknownField(n, num, buf[at:i])
			continue
		}
		if f.op == opSkip {
			continue
		}
		if f.once != 0 {
			bit := uint64(1) << (f.once - 1)
			w.irregular = w.irregular || seen&bit != 0
			seen |= bit
		}
		if (f.op == opSkipMessage || f.op == opFactName) && !w.response {
			w.skippedMessage(n, num, buf[from:i])
		}
		if f.op == opSkipMessage {
			continue
		}
		if err := w.known(n, f, at, lenPos, from, i, parent, sc, failure, depth); err != nil {
			return err
		}
	}
	return nil
}

// known handles a field that the plan gives something to do.
func (w *walk) known(n *node, f *field, at, lenPos, from, to int, parent, sc int32, failure, depth int) error {
	content := span{int32(from), int32(to)}
	switch f.op {
	case opFact:
		w.scopes[sc].set(f.fact, content)
		return nil
	case opFactName:
		name, err := firstString(w.buf, from, to)
		if err == nil {
			w.scopes[sc].set(f.fact, name)
		}
		return err
	case opToken:
		w.scopes[sc].token = content
		return nil
	case opNamespace:
		w.scopes[sc].namespace = content
		return nil
	case opEndpoint:
		w.scopes[sc].endpoint = content
		return nil
	case opFailMessage:
		w.failures[failure].message = part{field: span{int32(at), int32(to)}, value: content}
		return nil
	case opFailStack:
		w.failures[failure].stack = part{field: span{int32(at), int32(to)}, value: content}
		return nil
	}

	slots, boxes := len(w.slots), len(w.boxes)
	own := int32(boxes)
	w.boxes = append(w.boxes, box{lenPos: int32(lenPos), start: int32(from), end: int32(to), parent: parent})
	var err error
	switch f.op {
	case opMessage:
		err = w.message(f.child, from, to, own, sc, depth+1)
	case opMapEntry:
		outer := w.name
		if w.name, err = firstString(w.buf, from, to); err == nil {
			err = w.message(f.child, from, to, own, sc, depth+1)
		}
		w.name = outer
	case opFailAttributes:
		w.failures[failure].attributes = part{field: span{int32(at), int32(to)}, value: content, box: own}
		return nil // the box stays: the chain's slot decides what becomes of it
	case opFailure:
		err = w.failure(f, failure, from, to, own, sc, depth)
	case opAny:
		err = w.any(n, f, from, to, own, sc, depth)
	case opHistoryBlob:
		err = w.historyBlob(f, from, to, own, sc, depth)
	default:
		if len(w.slots) == maxSlots {
			return errSlots
		}
		w.slots = append(w.slots, slot{site: siteOf[f.op], f: f, box: own, scope: sc, name: w.name, memo: n.memo})
	}
	if len(w.slots) == slots && f.op != opFailure {
		w.boxes = w.boxes[:boxes] // nothing in there can change
	}
	return err
}

var siteOf = [...]siteType{opPayload: sitePayload, opAsk: siteAsk, opExempt: siteExempt, opText: siteText, opReason: siteReason,
	opNexusFailure: siteNexus}

// failure walks a failure. One that is not the cause of another starts a chain.
func (w *walk) failure(f *field, within, from, to int, own, sc int32, depth int) error {
	if within >= 0 {
		return w.message(f.child, from, to, own, sc, depth+1)
	}
	first := int32(len(w.failures))
	chain := len(w.slots)
	if chain == maxSlots {
		return errSlots
	}
	w.slots = append(w.slots, slot{site: siteFailure, f: f, box: own, scope: sc, name: w.name})
	err := w.message(f.child, from, to, own, sc, depth+1)
	w.slots[chain].failure = span{first, int32(len(w.failures))}
	return err
}

// any walks the message within a google.protobuf.Any whose type is known. One
// that is not known is left as it is, unless it could hold a payload.
func (w *walk) any(n *node, f *field, from, to int, own, sc int32, depth int) error {
	var name, value part
	err := eachField(w.buf, from, to, func(num protowire.Number, wire protowire.Type, at, lenPos, from, to int) {
		p := part{field: span{int32(lenPos), int32(to)}, value: span{int32(from), int32(to)}}
		switch {
		case wire != protowire.BytesType:
		case num == 1:
			w.irregular = w.irregular || name.value.to != 0
			name = p
		case num == 2:
			w.irregular = w.irregular || value.value.to != 0
			value = p
		}
	})
	if err != nil || value.value.empty() {
		return err
	}
	full := name.value.of(w.buf)
	if i := bytes.LastIndexByte(full, '/'); i >= 0 {
		full = full[i+1:]
	}
	child := w.plan.anyNode(f, full, w.response, w.method)
	if child == nil {
		w.unknownField(n, 2, value.value.of(w.buf))
		return nil
	}
	if !child.sites {
		return nil
	}
	inner := int32(len(w.boxes))
	w.boxes = append(w.boxes, box{lenPos: value.field.from, start: value.value.from, end: value.value.to, parent: own})
	return w.message(child, int(value.value.from), int(value.value.to), inner, sc, depth+1)
}

// historyBlob walks a DataBlob that holds a serialised history. Only the
// protobuf encoding (1) is known on the wire; another one is left alone.
func (w *walk) historyBlob(f *field, from, to int, own, sc int32, depth int) error {
	var encoding uint64
	var data part
	err := eachField(w.buf, from, to, func(num protowire.Number, wire protowire.Type, at, lenPos, from, to int) {
		switch {
		case num == 1 && wire == protowire.VarintType:
			encoding, _ = uvarint(w.buf, from, to)
		case num == 2 && wire == protowire.BytesType:
			w.irregular = w.irregular || data.value.to != 0
			data = part{field: span{int32(lenPos), int32(to)}, value: span{int32(from), int32(to)}}
		}
	})
	if err != nil || data.value.empty() || encoding != 1 {
		return err
	}
	inner := int32(len(w.boxes))
	w.boxes = append(w.boxes, box{lenPos: data.field.from, start: data.value.from, end: data.value.to, parent: own})
	return w.message(f.child, int(data.value.from), int(data.value.to), inner, sc, depth+1)
}

// handsOut tells whether a message of this type is a task for a worker.
func (w *walk) handsOut(n *node) bool { return w.response && n.task }
