package policy

// Direction is the way that a payload goes. Each has its own rules.
type Direction uint8

const (
	// Request is the way to the server: a payload is sealed, passes, or is refused.
	Request Direction = iota
	// Response is the way to a caller: a sealed payload is opened, kept sealed, redacted, or refused.
	Response
)

// String returns the name of the set that rules for this direction add to.
func (d Direction) String() string {
	if d == Response {
		return "response"
	}
	return "request"
}

// Action is what happens to one payload.
type Action uint8

const (
	// NoAction is the zero value; no decision ever carries it.
	NoAction Action = iota
	// Seal encrypts (request).
	Seal
	// Pass leaves the payload readable (request).
	Pass
	// Deny refuses the call (request). In a response the payload stays sealed, and a task or a history with it is refused.
	Deny
	// Accept takes an envelope that an authenticated worker made itself (request).
	// A payload that is no such envelope is to be sealed with Verdict.Key.
	Accept
	// Open decrypts (response).
	Open
	// Keep hands out the ciphertext (response).
	Keep
	// Redact puts a placeholder in the payload's place (response, and kinds reason and text in a request).
	Redact
	// Drop removes the value of a search attribute (request).
	Drop
	// Mask replaces members of a document for ever, and then seals it (request).
	Mask
)

var actionNames = [...]string{NoAction: "none", Seal: "seal", Pass: "pass", Deny: "deny", Accept: "accept",
	Open: "open", Keep: "keep", Redact: "redact", Drop: "drop", Mask: "mask"}

// String returns the word that a policy writes for the action.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "invalid"
}

// Kinds of payload, as a policy reads them in input.payload.kind.
const (
	KindInput           = "input"
	KindResult          = "result"
	KindMemo            = "memo"
	KindHeader          = "header"
	KindSignal          = "signal"
	KindQuery           = "query"
	KindUpdate          = "update"
	KindHeartbeat       = "heartbeat"
	KindFailure         = "failure"
	KindMarker          = "marker"
	KindDetails         = "details"          // whatever a newer API calls otherwise
	KindMetadata        = "metadata"         // summaries, labels and the like
	KindSearchAttribute = "search_attribute" // pass, drop and deny only; passes without a verdict
	KindReason          = "reason"           // pass, deny and redact only; passes without a verdict
	KindText            = "text"             // like KindReason: texts that are no notes, as headers of Nexus operations
)

// readable reports whether a text of this kind stays readable at the server: it passes, is denied, or is redacted.
func readable(kind string) bool { return kind == KindReason || kind == KindText }

// Input describes one payload. Its strings may alias the message: what is kept is copied.
type Input struct {
	Namespace, RPC string
	Caller         *Caller // nil: an anonymous caller without a listener name

	WorkflowID, WorkflowType, TaskQueue, ActivityID, ActivityType string
	// Known facts stand in the fields above. A fact in neither set is unknown.
	Known, NotApplicable FactSet

	Kind, Name, Path, Encoding, Type string
	// External: the payload is a reference to a value that the worker's SDK has put into external storage (requests).
	External bool
	// Apart: the payload comes without its message, so that its name and path are unknown too.
	// [Policy.DecideApart] sets it and tries every kind.
	Apart bool
	// Data is the payload's data. It is decoded only when a rule reads input.content.
	Data []byte

	Sealed Sealed // responses

	Call *Call // what the decisions of one call share; nil: they share nothing and have no limit in all
}

// Sealed is what a policy can read of a sealed payload.
type Sealed struct {
	Namespace, Key string // what the envelope says, authenticated
	Granted        bool   // a grant of the config lets Input.Namespace open it
}

// Verdict is the decision for one payload: what one rule proposes, and what all of them come to together.
type Verdict struct {
	Action        Action
	Key           string   // never empty for Seal, Mask and Accept
	Fields, Clear []string // JSON pointers; neither: the whole payload
	// Optional are those of Fields that a document need not have ("missing": "pass"). Without any other one the
	// whole payload is sealed.
	Optional []string
	Masked   *Masking // what Mask replaces; nil for other actions
	Compress bool
	Reason   string
	Subject  Subject // whose key seals; the zero value: that of no subject
	// Weakened reports that a `pass` became a `seal`, since the rules read a fact or a content that is
	// unknown in this request. For a payload apart from any message, an `open` may also have become a
	// `keep`.
	Weakened bool
	Hit      bool // answered by the cache
	// Unmatched says why the whole payload is sealed in place of Fields. Only cases and explanations look into the
	// document for that; in calls the sealer does.
	Unmatched string

	untold         MemberSet // what rules read and the request does not tell, of a refusal for that and of what is weakened
	computedKey    bool      // of a proposal: the key's name may hold a part of the payload
	computedFields bool      // of a proposal that masks: a pointer may hold a part of the payload
}

// KeyRank returns the place of a key in the configuration, the most sensitive
// first; false means that the key is not configured for that namespace.
type KeyRank func(namespace, key string) (rank int, ok bool)

// DefaultKey returns the key of a verdict that names none.
type DefaultKey func(namespace string) (string, bool)

// Unmatched returns why a document of an encoding is sealed whole though rules name fields of it; "" if they fit.
type Unmatched func(encoding string, document []byte, fields, optional []string) string

// Masker masks fields of a document of an encoding, as calls do, and returns how many values that are; or why it cannot, so that the
// request is refused.
type Masker func(encoding string, document []byte, fields, optional []string) (out []byte, masked int, why string)

// MissingSubject returns why a document of an encoding is refused though a rule names the subject that it is sealed for; "" if it has one
// there, or the subject has a default.
type MissingSubject func(encoding string, document []byte, at Subject) string

// Options say where a policy comes from and what it may lean on.
type Options struct {
	File       string // the platform's policy; "" means Shipped
	Namespaces string // folder of <namespace>.rego; "" means none
	Shipped    []byte
	Bundle     *Bundle // instead of File and Namespaces

	KeyRank    KeyRank    // nil: every key counts as configured, all of one rank
	DefaultKey DefaultKey // nil: "default" everywhere
	Unmatched  Unmatched  // nil: cases and explanations take every document for one that has the fields
	Masker     Masker     // nil: likewise
	// MissingSubject nil: cases and explanations take every document for one that has the subject.
	MissingSubject MissingSubject
	// NoSubjects is why rules may name no subject, and what to do; "": they may.
	NoSubjects string
	RPCs       []string // all values of input.rpc; nil: any. A rule that compares with another is refused.

	CacheSize int // verdicts kept; 0 means 32768, less than 0 none
}
