package rewrite

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/errordetails/v1"
	failurepb "go.temporal.io/api/failure/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Types of Nexus failures that the server converts to Temporal failures
// (common/nexus/failure.go in the server's source).
const (
	nexusTypeTemporal  = msgFailure
	nexusTypeOperation = "nexus.OperationError"
	nexusTypeHandler   = "nexus.HandlerError"
)

// sealNexusFailure converts a Nexus failure to a Temporal failure, as the server
// would do, and seals that. The result is a JSON document in the details of the Nexus
// failure, a form that the server accepts. So the caller's history holds one sealed
// failure like any other.
func (s *sealer) sealNexusFailure(ctx context.Context, sl *slot) error {
	in := new(nexuspb.Failure)
	if err := s.call.meter.takeDecoded(in.ProtoReflect().Descriptor(), s.message.content(sl), 0); err != nil {
		return err
	}
	if err := proto.Unmarshal(s.message.content(sl), in); err != nil {
		return fmt.Errorf("the bytes are not a Nexus failure: %w", err)
	}
	failure, err := temporalFailure(in, s.call.meter)
	if err != nil {
		return err
	}
	around := &errordetails.QueryFailedFailure{Failure: failure} // any message that holds a failure
	raw, err := proto.Marshal(around)
	if err != nil {
		return fmt.Errorf("write the failure: %w", err)
	}
	raw, changed, err := s.sealNested(ctx, sl, around.ProtoReflect().Descriptor(), raw)
	if err != nil || !changed {
		return err
	}
	if err := proto.Unmarshal(raw, around); err != nil {
		return fmt.Errorf("read the sealed failure: %w", err)
	}
	sealed := around.Failure
	message := sealed.Message
	sealed.Message, sealed.StackTrace = "", ""
	details, err := protojson.Marshal(sealed)
	if err != nil {
		return fmt.Errorf("write the sealed failure as JSON: %w", err)
	}
	out, err := proto.Marshal(&nexuspb.Failure{
		Message: message, Metadata: map[string]string{"type": nexusTypeTemporal}, Details: details})
	if err != nil {
		return fmt.Errorf("write the Nexus failure: %w", err)
	}
	s.message.replace(sl, out)
	return nil
}

// nexusFailureJSON is how the Nexus SDK writes a failure as JSON.
type nexusFailureJSON struct {
	Message    string            `json:"message"`
	StackTrace string            `json:"stackTrace,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Details    json.RawMessage   `json:"details,omitempty"`
	Cause      *nexusFailureJSON `json:"cause,omitempty"`
}

// shownCauses is how many causes of a failure its JSON form holds. Each of them has a JSON
// form of its own, so without a limit a chain would grow by its square.
const shownCauses = 16

// nexusJSON converts a Nexus failure to its JSON form, with so many causes.
func nexusJSON(f *nexuspb.Failure, causes int) *nexusFailureJSON {
	if f == nil || causes < 0 {
		return nil
	}
	return &nexusFailureJSON{Message: f.Message, StackTrace: f.StackTrace,
		Metadata: f.Metadata, Details: f.Details, Cause: nexusJSON(f.Cause, causes-1)}
}

// temporalFailure converts a Nexus failure to a Temporal failure as the server does.
func temporalFailure(in *nexuspb.Failure, m *meter) (*failurepb.Failure, error) {
	if err := m.takeJSON(in.Details); err != nil {
		return nil, err
	}
	f := new(failurepb.Failure)
	var err error
	switch kind := in.Metadata["type"]; {
	case kind == nexusTypeTemporal:
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(in.Details, f)
	case kind == nexusTypeOperation:
		err = operationFailure(in, f)
	case kind == nexusTypeHandler:
		err = handlerFailure(in, f)
	case in.Metadata != nil || len(in.Details) > 0:
		err = otherFailure(in, f, m)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, e
	}
	if err != nil {
		// A JSON error may quote the document.
		return nil, fmt.Errorf("the details of a Nexus failure of type %q are not what that type holds", in.Metadata["type"])
	}
	f.Message, f.StackTrace = in.Message, in.StackTrace
	if in.Cause != nil {
		if f.Cause, err = temporalFailure(in.Cause, m); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// operationFailure converts an error of an operation: canceled or failed.
func operationFailure(in *nexuspb.Failure, f *failurepb.Failure) error {
	var details struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal(in.Details, &details); err != nil {
		return err
	}
	if details.State == "canceled" {
		f.FailureInfo = &failurepb.Failure_CanceledFailureInfo{CanceledFailureInfo: &failurepb.CanceledFailureInfo{}}
		return nil
	}
	f.FailureInfo = &failurepb.Failure_ApplicationFailureInfo{
		ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "OperationError", NonRetryable: true}}
	return nil
}

// otherFailure converts a failure of a type that the server does not know. Its JSON
// form becomes the details.
func otherFailure(in *nexuspb.Failure, f *failurepb.Failure, m *meter) error {
	if len(in.Details) > 0 && !json.Valid(in.Details) {
		return errors.New("not JSON")
	}
	shown := nexusJSON(in, shownCauses)
	shown.Message, shown.StackTrace = "", ""
	data, err := json.Marshal(shown)
	if err != nil {
		return err
	}
	if err := m.take(6 * len(data)); err != nil { // it is copied whenever the failure is encoded or sealed
		return err
	}
	payload := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: data}
	f.FailureInfo = &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{
		Type: "NexusFailure", Details: &commonpb.Payloads{Payloads: []*commonpb.Payload{payload}}}}
	return nil
}

// handlerFailure converts an error of a handler, with its retry behavior.
func handlerFailure(in *nexuspb.Failure, f *failurepb.Failure) error {
	var details struct {
		Type              string `json:"type"`
		RetryableOverride *bool  `json:"retryableOverride"`
		EncodedAttributes string `json:"encodedAttributes"`
	}
	if err := json.Unmarshal(in.Details, &details); err != nil {
		return err
	}
	info := &failurepb.NexusHandlerFailureInfo{Type: details.Type}
	if o := details.RetryableOverride; o != nil && *o {
		info.RetryBehavior = enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
	} else if o != nil {
		info.RetryBehavior = enumspb.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
	}
	f.FailureInfo = &failurepb.Failure_NexusHandlerFailureInfo{NexusHandlerFailureInfo: info}
	if details.EncodedAttributes == "" {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(details.EncodedAttributes)
	if err != nil {
		return err
	}
	f.EncodedAttributes = new(commonpb.Payload)
	return protojson.Unmarshal(raw, f.EncodedAttributes)
}
