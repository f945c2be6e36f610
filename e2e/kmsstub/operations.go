package kmsstub

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// State is a key state as DescribeKey reports it.
type State string

// The key states that decide whether a key may be used.
const (
	Enabled         State = "Enabled"
	Disabled        State = "Disabled"
	PendingDeletion State = "PendingDeletion"
	PendingImport   State = "PendingImport"
	Unavailable     State = "Unavailable"
)

type key struct {
	id       string
	region   string
	material [][]byte // one generation per rotation; the last one seals
	state    State
	created  time.Time
	multi    bool
}

// CreateKey makes an enabled symmetric key and returns its id. Ids of multi-Region keys begin with "mrk-", and
// such a key answers in every region.
func (s *Server) CreateKey(multiRegion bool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.createKey(s.region, multiRegion).id
}

func (s *Server) createKey(region string, multi bool) *key {
	raw := make([]byte, 16)
	mustRand(raw)
	text := hex.EncodeToString(raw)
	id := fmt.Sprintf("%s-%s-%s-%s-%s", text[:8], text[8:12], text[12:16], text[16:20], text[20:])
	if multi {
		id = "mrk-" + text
	}
	k := &key{id: id, region: region, state: Enabled, created: s.now(), multi: multi}
	k.rotate()
	s.keys[id] = k
	return k
}

func (k *key) rotate() {
	material := make([]byte, 32)
	mustRand(material)
	k.material = append(k.material, material)
}

// SetAlias points "alias/name" to a key.
func (s *Server) SetAlias(alias, keyID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aliases[alias] = keyID
}

// HasAlias reports whether "alias/name" points to a key.
func (s *Server) HasAlias(alias string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.aliases[alias]
	return ok
}

// SetState puts a key into a state, also into those that no API call leads to.
func (s *Server) SetState(keyID string, state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[keyID].state = state
}

// DestroyKey removes a key as AWS does at the end of its waiting period.
func (s *Server) DestroyKey(keyID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, keyID)
}

// operations maps the API's operations to what answers them. All run under the server's lock.
var operations = map[string]func(s *Server, region string, body []byte) (any, error){
	"GenerateDataKey":                 op((*Server).generateDataKey),
	"GenerateDataKeyWithoutPlaintext": op((*Server).generateDataKeyWithoutPlaintext),
	"Encrypt":                         op((*Server).encrypt),
	"Decrypt":                         op((*Server).decrypt),
	"ReEncrypt":                       op((*Server).reEncrypt),
	"DescribeKey":                     op((*Server).describeKey),
	"CreateKey":                       op((*Server).createKeyOp),
	"EnableKey":                       op((*Server).enableKey),
	"DisableKey":                      op((*Server).disableKey),
	"ScheduleKeyDeletion":             op((*Server).scheduleKeyDeletion),
	"CancelKeyDeletion":               op((*Server).cancelKeyDeletion),
	"RotateKeyOnDemand":               op((*Server).rotateKeyOnDemand),
	"CreateAlias":                     op((*Server).createAlias),
	"UpdateAlias":                     op((*Server).updateAlias),
	"DeleteAlias":                     op((*Server).deleteAlias),
	"ListAliases":                     op((*Server).listAliases),
}

func op[In any](handle func(s *Server, region string, in *In) (any, error)) func(*Server, string, []byte) (any, error) {
	return func(s *Server, region string, body []byte) (any, error) {
		in := new(In)
		if err := json.Unmarshal(body, in); err != nil {
			return nil, fail("SerializationException", err.Error())
		}
		return handle(s, region, in)
	}
}

// keyRequest holds the members that the operations here share. encoding/json reads and writes blobs as base64,
// as the protocol does.
type keyRequest struct {
	KeyId             string
	EncryptionContext map[string]string
	KeySpec           string
	NumberOfBytes     int
	Plaintext         []byte
	CiphertextBlob    []byte

	SourceEncryptionContext, DestinationEncryptionContext map[string]string
	SourceKeyId, DestinationKeyId                         string

	MultiRegion         bool
	AliasName           string
	TargetKeyId         string
	PendingWindowInDays int
}

func (s *Server) arn(k *key, region string) string {
	if !k.multi {
		region = k.region
	}
	return "arn:aws:kms:" + region + ":" + s.account + ":key/" + k.id
}

// find resolves what a caller may name a key by: id, key ARN, alias name, alias ARN.
func (s *Server) find(name, region string) (*key, error) {
	if name == "" {
		return nil, fail("ValidationException", "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null")
	}
	id := name
	if strings.HasPrefix(name, "arn:") {
		parts := strings.SplitN(name, ":", 6)
		if len(parts) != 6 || parts[2] != "kms" {
			return nil, fail("InvalidArnException", "Invalid arn "+name)
		}
		if parts[3] != region {
			return nil, fail("NotFoundException", "Invalid arn "+parts[3])
		}
		id = strings.TrimPrefix(parts[5], "key/")
	}
	if strings.HasPrefix(id, "alias/") {
		target, ok := s.aliases[id]
		if !ok {
			return nil, fail("NotFoundException", fmt.Sprintf("Alias arn:aws:kms:%s:%s:%s is not found.", region, s.account, id))
		}
		id = target
	}
	k, ok := s.keys[id]
	if !ok || (k.region != region && !k.multi) {
		return nil, fail("NotFoundException", fmt.Sprintf("Key 'arn:aws:kms:%s:%s:key/%s' does not exist", region, s.account, id))
	}
	return k, nil
}

// usable answers the documented error of a key that is in no state for cryptography.
func (s *Server) usable(k *key, region string) error {
	switch k.state {
	case Enabled:
		return nil
	case Disabled:
		return fail("DisabledException", s.arn(k, region)+" is disabled.")
	case PendingDeletion:
		return fail("KMSInvalidStateException", s.arn(k, region)+" is pending deletion.")
	case PendingImport:
		return fail("KMSInvalidStateException", s.arn(k, region)+" is pending import.")
	default:
		return fail("KMSInvalidStateException", s.arn(k, region)+" is unavailable.")
	}
}

func (s *Server) findUsable(name, region string) (*key, error) {
	k, err := s.find(name, region)
	if err != nil {
		return nil, err
	}
	return k, s.usable(k, region)
}

func (s *Server) generateDataKey(region string, in *keyRequest) (any, error) {
	k, err := s.findUsable(in.KeyId, region)
	if err != nil {
		return nil, err
	}
	var n int
	switch {
	case in.KeySpec == "AES_256" && in.NumberOfBytes == 0:
		n = 32
	case in.KeySpec == "AES_128" && in.NumberOfBytes == 0:
		n = 16
	case in.KeySpec == "" && in.NumberOfBytes >= 1 && in.NumberOfBytes <= 1024:
		n = in.NumberOfBytes
	default:
		return nil, fail("ValidationException", "Please specify either number of bytes or key spec.")
	}
	plain := make([]byte, n)
	_, _ = rand.Read(plain)
	return map[string]any{
		"KeyId": s.arn(k, region), "Plaintext": plain, "CiphertextBlob": seal(k, plain, in.EncryptionContext),
	}, nil
}

func (s *Server) generateDataKeyWithoutPlaintext(region string, in *keyRequest) (any, error) {
	out, err := s.generateDataKey(region, in)
	if err != nil {
		return nil, err
	}
	delete(out.(map[string]any), "Plaintext")
	return out, nil
}

func (s *Server) encrypt(region string, in *keyRequest) (any, error) {
	k, err := s.findUsable(in.KeyId, region)
	if err != nil {
		return nil, err
	}
	if n := len(in.Plaintext); n < 1 || n > maxEncrypt {
		return nil, fail("ValidationException", "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length between 1 and 4096")
	}
	return map[string]any{
		"KeyId": s.arn(k, region), "CiphertextBlob": seal(k, in.Plaintext, in.EncryptionContext),
		"EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
	}, nil
}

func (s *Server) decrypt(region string, in *keyRequest) (any, error) {
	k, plain, err := s.openBlob(region, in.KeyId, in.CiphertextBlob, in.EncryptionContext)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"KeyId": s.arn(k, region), "Plaintext": plain, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
	}, nil
}

// openBlob follows AWS in what it reveals about a blob: one whose key the caller can't see is "access denied",
// whether that key exists or not; everything wrong with the blob itself has an error without a message.
func (s *Server) openBlob(region, keyID string, blob []byte, context map[string]string) (*key, []byte, error) {
	id, err := blobKeyID(blob)
	if err != nil {
		return nil, nil, fail("InvalidCiphertextException", "")
	}
	k, ok := s.keys[id]
	if !ok || (k.region != region && !k.multi) {
		return nil, nil, fail("AccessDeniedException",
			"The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
	}
	if keyID != "" {
		named, err := s.find(keyID, region)
		if err != nil {
			return nil, nil, err
		}
		if named != k {
			return nil, nil, fail("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
		}
	}
	if err := s.usable(k, region); err != nil {
		return nil, nil, err
	}
	plain, err := open(k, blob, context)
	if err != nil {
		return nil, nil, fail("InvalidCiphertextException", "")
	}
	return k, plain, nil
}

func (s *Server) reEncrypt(region string, in *keyRequest) (any, error) {
	source, plain, err := s.openBlob(region, in.SourceKeyId, in.CiphertextBlob, in.SourceEncryptionContext)
	if err != nil {
		return nil, err
	}
	k, err := s.findUsable(in.DestinationKeyId, region)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"KeyId": s.arn(k, region), "SourceKeyId": s.arn(source, region),
		"CiphertextBlob":            seal(k, plain, in.DestinationEncryptionContext),
		"SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT", "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
	}, nil
}
