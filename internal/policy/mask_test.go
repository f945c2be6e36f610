package policy

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// masked is an input of a kind that may be masked, with all facts.
func masked(kind, document string) *Input {
	return &Input{Namespace: "clinic", RPC: "StartWorkflowExecution", Kind: kind, Encoding: "json/plain", Data: []byte(document), NotApplicable: AllFacts}
}

func TestMaskVerdicts(t *testing.T) {
	const (
		ssn     = `{"action": "mask", "fields": ["/ssn"]}`
		pin     = `{"action": "mask", "fields": {"/pin", "/ssn"}, "missing": "pass"}`
		phi     = `{"action": "seal", "key": "phi", "compress": true}`
		part    = `{"action": "seal", "key": "phi", "fields": ["/ssn", "/name"], "missing": "pass"}`
		subject = `{"action": "seal", "subject": {"pointer": "/ssn"}}`
	)
	only := func(f, optional []string) *Masking { return &Masking{Fields: f, Optional: optional} }
	one := only([]string{"/ssn"}, nil)
	for name, tt := range map[string]struct {
		platform, team []string
		want           Verdict
		err            string
	}{
		"alone":               {team: []string{ssn}, want: Verdict{Action: Mask, Key: "default", Masked: one}},
		"over pass":           {platform: []string{ssn}, team: []string{`{"action": "pass"}`}, want: Verdict{Action: Mask, Key: "default", Masked: one}},
		"over accept":         {platform: []string{`{"action": "accept"}`}, team: []string{ssn}, want: Verdict{Action: Mask, Key: "default", Masked: one}},
		"and then sealed":     {platform: []string{phi}, team: []string{ssn}, want: Verdict{Action: Mask, Key: "phi", Compress: true, Masked: one}},
		"and sealed in parts": {platform: []string{part}, team: []string{ssn}, want: Verdict{Action: Mask, Key: "phi", Fields: []string{"/name", "/ssn"}, Optional: []string{"/name", "/ssn"}, Masked: one}},
		"and for a subject":   {platform: []string{subject}, team: []string{ssn}, want: Verdict{Action: Mask, Key: "default", Subject: Subject{Pointer: "/ssn"}, Masked: one}},
		"under deny":          {platform: []string{`{"action": "deny", "reason": "no"}`}, team: []string{ssn}, want: Verdict{Action: Deny, Reason: "no"}},
		"two rules":           {platform: []string{ssn}, team: []string{pin}, want: Verdict{Action: Mask, Key: "default", Masked: only([]string{"/pin", "/ssn"}, []string{"/pin"})}},
		"optional":            {team: []string{pin}, want: Verdict{Action: Mask, Key: "default", Masked: only([]string{"/pin", "/ssn"}, []string{"/pin", "/ssn"})}},
		"without fields":      {team: []string{`{"action": "mask"}`}, err: `action mask requires "fields"`},
		"no fields":           {team: []string{`{"action": "mask", "fields": []}`}, err: `action mask requires "fields"`},
		"the whole":           {team: []string{`{"action": "mask", "fields": ["/a", ""]}`}, err: `action mask requires "fields"`},
		"no pointer":          {team: []string{`{"action": "mask", "fields": ["ssn"]}`}, err: "JSON pointers such as"},
		"another member":      {team: []string{`{"action": "mask", "fields": ["/a"], "key": "phi"}`}, err: `action mask has no member "key"`},
		"misspelled":          {team: []string{`{"action": "msk", "fields": ["/a"]}`}, err: `did you mean "mask"?`},
	} {
		t.Run(name, func(t *testing.T) {
			guarded := func(verdicts []string) (out []string) {
				for _, v := range verdicts {
					out = append(out, v+` if input.payload.kind == "input"`)
				}
				return out
			}
			p, err := load(t, map[string]string{"policy.rego": rulesOf("temporal", "request", guarded(tt.platform)...),
				"clinic.rego": rulesOf(`temporal.namespaces.clinic`, "request", guarded(tt.team)...)}, ranked("phi", "default"))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "clinic.rego:3") {
					t.Errorf("error %v; want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, hit := range []bool{false, true} {
				v, err := p.Decide(t.Context(), Request, masked(KindInput, `{"ssn":1}`))
				tt.want.Hit = hit
				if err != nil || !reflect.DeepEqual(v, tt.want) {
					t.Errorf("verdict %+v, masking %+v, error %v; want %+v, masking %+v", v, v.Masked, err, tt.want, tt.want.Masked)
				}
			}
		})
	}
}

// TestMaskOfWhatAWorkerHas: a rule that may hold for a payload which a worker has seen in clear, and would replay masked, does not load.
func TestMaskOfWhatAWorkerHas(t *testing.T) {
	const head = "package temporal.namespaces.clinic\n\npii := [\"/ssn\"]\n\nkinds := {\"input\", \"result\"}\nanything := {\"input\", \"marker\"}\n" +
		"documents if input.payload.kind in kinds\ndefault plain := false\nplain if input.payload.kind == \"signal\"\nof(kind) if kind == \"query\"\n\n"
	for guard, kind := range map[string]string{
		`input.namespace == "clinic"`:                                      KindHeader,
		`input.workflow.type == "Admission"`:                               KindHeader,
		`input.payload.kind == "marker"`:                                   KindMarker,
		`input.payload.kind == "heartbeat"; input.activity.type == "Scan"`: KindHeartbeat,
		`input.payload.kind in anything`:                                   KindMarker,
		`input.payload.kind in {"result", "failure"}`:                      KindFailure,
		`not documents; input.workflow.id == "w"`:                          KindHeader,
		`input.payload.kind != "marker"; input.content.json.ssn`:           KindHeader,
		`input.payload.kind == "details"`:                                  KindDetails,
		`input.payload.kind == "metadata"; input.rpc == "CreateSchedule"`:  KindMetadata,
		`input.payload.kind == "search_attribute"`:                         KindSearchAttribute,
		`input.payload.kind == "reason"`:                                   KindReason,
		`input.payload.kind == "text"`:                                     KindText,
		`input.payload.kind == "memo"`:                                     KindMemo,
		`input.payload.kind == "memo"; input.rpc in {"RespondWorkflowTaskCompleted", "StartWorkflowExecution"}`: KindMemo,
		`input.payload.kind == "memo"; not contains(input.payload.path, "upsert_memo")`:                         KindMemo,
		`input.payload.kind == "update"`:                                      KindUpdate,
		`input.payload.kind == "update"; startswith(input.payload.path, "m")`: KindUpdate,
		`input.payload.kind == input.workflow.type`:                           KindHeader,

		`input.payload.kind == "result"`:                                                                     "",
		`input.payload.kind in kinds; input.workflow.type == "Admission"`:                                    "",
		`documents; input.content.json.ssn`:                                                                  "",
		`plain`:                                                                                              "",
		`of(input.payload.kind)`:                                                                             "",
		`some kind in kinds; input.payload.kind == kind`:                                                     "",
		`startswith(input.payload.kind, "inp")`:                                                              "",
		`input.payload.kind == "memo"; input.rpc == "StartWorkflowExecution"`:                                "",
		`input.payload.kind == "memo"; not contains(input.payload.path, "upserted_memo")`:                    "",
		`input.payload.kind == "update"; input.rpc == "UpdateWorkflowExecution"`:                             "",
		`input.payload.kind == "update"; not contains(input.payload.path, "accepted_request")`:               "",
		`input.workflow.type == "Admission"; input.payload.kind == "input"; not input.caller.subject == "x"`: "",
	} {
		for _, fields := range []string{`["/ssn"]`, `pii`, `[concat("/", ["", f]) | some f in ["ssn"]]`} {
			_, err := load(t, map[string]string{"clinic.rego": head + `request contains {"action": "mask", "fields": ` + fields + `} if { ` + guard + " }\n"})
			switch {
			case kind == "" && err != nil:
				t.Errorf("%s, %s: %v", fields, guard, err)
			case kind != "" && (!errors.Is(err, ErrUnmaskable) || !strings.Contains(err.Error(), `"`+kind+`"`) || !strings.Contains(err.Error(), "clinic.rego:12")):
				t.Errorf("%s, %s: error %v; want that it may hold for kind %s", fields, guard, err, kind)
			}
		}
	}
}

// TestComputedMaskOfWhatAWorkerHas: what a rule computes is refused when it masks such a payload.
func TestComputedMaskOfWhatAWorkerHas(t *testing.T) {
	p := mustLoad(t, map[string]string{"clinic.rego": "package temporal.namespaces.clinic\n\nrequest contains v if {\n\tinput.workflow.type == \"Admission\"\n\tv := {\"action\": \"mask\", \"fields\": [\"/ssn\"]}\n}\n"})
	for _, in := range []*Input{
		{Kind: KindMarker}, {Kind: KindHeader}, {Kind: KindReason},
		{Kind: KindMemo, Path: "commands.modify_workflow_properties_command_attributes.upserted_memo"},
		{Kind: KindUpdate, Path: "messages.body.accepted_request.input.args"},
	} {
		in.Namespace, in.WorkflowType, in.Known, in.Encoding, in.Data = "clinic", "Admission", AllFacts, "json/plain", []byte(`{"ssn":"CANARY"}`)
		v, err := p.Decide(t.Context(), Request, in)
		if !errors.Is(err, ErrUnmaskable) || !strings.Contains(err.Error(), "clinic.rego:3") || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%s %s: %s, error %v", in.Kind, in.Path, v, err)
		}
	}
	if v, err := p.Decide(t.Context(), Request, &Input{Namespace: "clinic", Kind: KindMemo, WorkflowType: "Admission", Known: AllFacts}); err != nil || v.Action != Mask {
		t.Errorf("a memo at a start: %s, %v", v, err)
	}
}

// TestMaskOverUnknown: where a rule that masks reads something that the request does not contain, or content that is not readable, the
// payload is refused.
func TestMaskOverUnknown(t *testing.T) {
	p := mustLoad(t, map[string]string{"clinic.rego": rulesOf("temporal.namespaces.clinic", "request",
		`{"action": "mask", "fields": ["/ssn"]} if { input.payload.kind == "result"; input.activity.type == "Scan" }`,
		`{"action": "mask", "fields": ["/pin"]} if { input.payload.kind in {"result", "input"}; input.content.json.pin }`,
		`{"action": "pass"}`)}, ranked("default"))
	for name, tt := range map[string]struct {
		in   Input
		want Action
	}{
		"an unknown fact":           {Input{Kind: KindResult, Data: []byte(`{}`)}, Deny},
		"another one":               {Input{Kind: KindResult, Data: []byte(`{"pin":1}`)}, Deny},
		"a known fact":              {Input{Kind: KindResult, Data: []byte(`{}`), Known: AllFacts, ActivityType: "Scan"}, Mask},
		"another fact":              {Input{Kind: KindResult, Data: []byte(`{}`), Known: AllFacts, ActivityType: "Other"}, Pass},
		"a guard ends it":           {Input{Kind: KindSignal, Data: []byte(`{}`)}, Pass},
		"a kind that nobody masks":  {Input{Kind: KindMarker, Data: []byte(`{`)}, Pass},
		"content":                   {Input{Kind: KindInput, Data: []byte(`{"pin":1}`)}, Mask},
		"content without it":        {Input{Kind: KindInput, Data: []byte(`{}`)}, Pass},
		"content that two may read": {Input{Kind: KindInput, Data: []byte(`{"pin":1,"pin":2}`)}, Deny},
		"no JSON":                   {Input{Kind: KindInput, Data: []byte(`{`)}, Deny},
	} {
		tt.in.Namespace, tt.in.Encoding = "clinic", "json/plain"
		v, err := p.Decide(t.Context(), Request, &tt.in)
		if err != nil || v.Action != tt.want {
			t.Errorf("%s: %s, error %v; want %s", name, v, err, tt.want)
		}
		if v.Action == Deny && !strings.Contains(v.Reason, "clinic.rego:") {
			t.Errorf("%s: the reason does not name the rule: %s", name, v.Reason)
		}
	}
}

// TestMaskOverUnknownIsNotShared: what must not be masked is not refused over what is unknown, and shares no verdict with what is
// refused, in whichever order they come.
func TestMaskOverUnknownIsNotShared(t *testing.T) {
	const (
		copied  = "messages.body.accepted_request.input.args"
		outcome = "messages.body.outcome.success"
	)
	for name, tt := range map[string]struct {
		guard           string
		maskable, other Input
	}{
		"by path": {`input.payload.kind == "update"; input.workflow.type == "Admission"; not contains(input.payload.path, "accepted_request")`,
			Input{Kind: KindUpdate, Path: outcome}, Input{Kind: KindUpdate, Path: copied}},
		"by content": {`input.payload.kind == "update"; input.content.json; input.workflow.type == "Admission"; not contains(input.payload.path, "accepted_request")`,
			Input{Kind: KindUpdate, Path: outcome}, Input{Kind: KindUpdate, Path: copied}},
		"computed, by kind": {`input.workflow.type == "Admission"`, Input{Kind: KindInput}, Input{Kind: KindHeader}},
		"computed, by memo": {`input.workflow.type == "Admission"; input.payload.kind == "memo"`,
			Input{Kind: KindMemo}, Input{Kind: KindMemo, Path: "commands." + upsertedMemo}},
	} {
		text := "package temporal.namespaces.clinic\n\nrequest contains v if {\n\tv := {\"action\": \"mask\", \"fields\": [\"/ssn\"]}\n\t" + tt.guard + "\n}\n"
		for _, cached := range []int{0, -1} {
			for _, turned := range []bool{false, true} {
				p := mustLoad(t, map[string]string{"clinic.rego": text}, ranked("default"), func(o *Options) { o.CacheSize = cached })
				pair, want, call := []Input{tt.maskable, tt.other}, []Action{Deny, Seal}, new(Call)
				if turned {
					slices.Reverse(pair)
					slices.Reverse(want)
				}
				for i := range pair {
					in := &pair[i]
					in.Namespace, in.RPC, in.Encoding, in.Data, in.Call = "clinic", completion, "json/plain", []byte(`{"ssn":"CANARY"}`), call
					if v, err := p.Decide(t.Context(), Request, in); err != nil || v.Action != want[i] {
						t.Errorf("%s, cache %d, %s: %s, error %v; want %s", name, cached, in.Kind+" "+in.Path, v, err, want[i])
					}
				}
			}
		}
	}
}

// TestMaskLeavesOtherRulesAlone: a rule that only seals refuses nothing over what is unknown, though another rule masks and its own
// verdict holds a reference.
func TestMaskLeavesOtherRulesAlone(t *testing.T) {
	p := mustLoad(t, map[string]string{"clinic.rego": rulesOf("temporal.namespaces.clinic", "request",
		`{"action": "mask", "fields": ["/ssn"]} if input.payload.kind == "result"`,
		`{"action": "seal", "subject": {"pointer": "/id"}} if input.payload.kind == "memo"`,
		`{"action": "seal", "key": input.workflow.id} if input.payload.kind == "signal"`)}, ranked("default"))
	v, err := p.Decide(t.Context(), Request, &Input{Namespace: "clinic", Kind: KindSignal, Encoding: "json/plain", Data: []byte(`{}`)})
	if err != nil || v.Action != Seal {
		t.Errorf("%s, error %v; want seal", v, err)
	}
}

// TestMaskApart: a payload of unknown kind is masked by the rules for all kinds, and sealed by the strictest key.
func TestMaskApart(t *testing.T) {
	p := mustLoad(t, map[string]string{"clinic.rego": rulesOf("temporal.namespaces.clinic", "request",
		`{"action": "mask", "fields": ["/ssn"]} if input.payload.kind == "result"`,
		`{"action": "mask", "fields": ["/ssn", "/pin"], "missing": "pass"} if input.payload.kind == "input"`,
		`{"action": "seal", "key": "phi", "fields": ["/name"]} if input.payload.kind == "query"`)}, ranked("phi", "default"))
	v, err := p.DecideApart(t.Context(), Request, masked("", `{"ssn":1}`))
	if err != nil || v.Action != Mask || v.Key != "phi" || v.Fields != nil || !slices.Equal(v.Masked.Fields, []string{"/pin", "/ssn"}) ||
		!slices.Equal(v.Masked.Optional, []string{"/pin"}) {
		t.Errorf("%s, error %v", v, err)
	}
}

// TestMaskComputed: pointers that a rule computed from the payload are known as such.
func TestMaskComputed(t *testing.T) {
	p := mustLoad(t, map[string]string{"clinic.rego": rulesOf("temporal.namespaces.clinic", "request",
		`{"action": "mask", "fields": [concat("/", ["", name])]} if { input.payload.kind == "input"; some name, _ in input.content.json }`,
		`{"action": "mask", "fields": ["/ssn"]} if { input.payload.kind == "result"; input.content.json }`)}, ranked("default"))
	for kind, computed := range map[string]bool{KindInput: true, KindResult: false} {
		v, err := p.Decide(t.Context(), Request, masked(kind, `{"CANARY":1}`))
		if err != nil || v.Action != Mask || v.Masked.Computed != computed {
			t.Errorf("%s: %s, error %v", kind, v, err)
		}
	}
}

// TestMaskInCases: cases and explanations look into the document, as calls do.
func TestMaskInCases(t *testing.T) {
	p := mustLoad(t, map[string]string{"clinic.rego": rulesOf("temporal.namespaces.clinic", "request",
		`{"action": "mask", "fields": ["/ssn"]} if input.payload.kind == "input"`,
		`{"action": "mask", "fields": ["/pin"], "missing": "pass"} if input.payload.kind in {"input", "signal"}`,
		`{"action": "mask", "fields": ["/a"]} if input.payload.kind == "result"`,
		`{"action": "seal", "fields": ["/a/b", "/name"]} if input.payload.kind == "result"`)}, ranked("default"), func(o *Options) {
		o.Unmatched, o.Masker = envelope.Unmatched, envelope.MaskDocument
	})
	ask := func(document string) Case {
		return Case{Input: CaseInput{Namespace: "clinic", Payload: CasePayload{Kind: KindInput}, Content: &CaseContent{Raw: document}}}
	}
	of := func(kind, encoding, document string) Case {
		c := ask(document)
		c.Input.Payload.Kind, c.Input.Payload.Encoding = kind, encoding
		if document == "" {
			c.Input.Content = nil
		}
		return c
	}
	external := ask(`{"ssn":1}`)
	external.Input.Payload.External = true
	for name, tt := range map[string]struct {
		c    Case
		want string
	}{
		"external storage":              {external, "deny"},
		"null, and a member has to be":  {of(KindInput, "binary/null", ""), "deny"},
		"null, and none has to be":      {of(KindSignal, "binary/null", ""), "seal"},
		"bytes that are not given":      {of(KindSignal, "binary/plain", ""), "deny"},
		"a document that is not given":  {of(KindSignal, "json/plain", ""), "mask"},
		"none of the optional is there": {of(KindSignal, "", `{"a":1}`), "seal"},
		"one of the optional is there":  {of(KindSignal, "", `{"pin":1}`), "mask"},
	} {
		tt.c.Want.Action = tt.want
		if err := tt.c.try(t.Context(), p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	below := of(KindResult, "", `{"a":{"b":1},"name":"x"}`)
	there := false
	below.Want = caseWant{Action: "mask", Fields: []string{"/a/b", "/name"}, Unmatched: &there}
	if err := below.try(t.Context(), p); err != nil {
		t.Errorf("what is sealed within what is masked: %v", err)
	}
	full, renamed := ask(`{"ssn":1}`), ask(`{"SSN":1}`)
	full.Want = caseWant{Action: "mask", Masked: []string{"/pin", "/ssn"}, Optional: []string{"/pin"}}
	renamed.Want = caseWant{Action: "deny"}
	for _, c := range []Case{full, renamed} {
		if err := c.try(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
	full.Want.Masked = []string{"/ssn"}
	if err := full.try(t.Context(), p); err == nil || !strings.Contains(err.Error(), "wanted mask masking /ssn") ||
		!strings.Contains(err.Error(), "got mask with key default masking /pin /ssn (if there: /pin)") {
		t.Errorf("error %v", err)
	}
	d, in, err := p.Question(&renamed)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := p.Explain(t.Context(), d, in); err != nil || e.Verdict.Action != Deny || !strings.Contains(e.Verdict.Reason, "/ssn leads to nothing") {
		t.Errorf("explained %s, error %v", e.Verdict, err)
	}
}

// TestMaskingsCompare: a candidate that masks other members decides otherwise.
func TestMaskingsCompare(t *testing.T) {
	a := Verdict{Action: Mask, Masked: &Masking{Fields: []string{"/a"}}}
	for _, b := range []Verdict{{Action: Mask, Masked: &Masking{Fields: []string{"/b"}}}, {Action: Seal},
		{Action: Mask, Masked: &Masking{Fields: []string{"/a"}, Optional: []string{"/a"}}}, {Action: Mask}} {
		if sameDecision(a, nil, b, nil) {
			t.Errorf("%s is the same as %s", a, b)
		}
	}
	two := Verdict{Action: Mask, Masked: &Masking{Fields: []string{"/a", "/CANARY"}}}
	if text := decided(two, nil).String(); text == decided(a, nil).String() || strings.Contains(text, "CANARY") {
		t.Errorf("another masking is listed as %s", text)
	}
	if !sameDecision(a, nil, Verdict{Action: Mask, Masked: &Masking{Fields: []string{"/a"}}}, nil) {
		t.Error("equal maskings differ")
	}
}

// TestMaskingsTakeMemory: the policy cache counts the texts of maskings.
func TestMaskingsTakeMemory(t *testing.T) {
	e := cacheEntry{verdict: Verdict{Masked: &Masking{Fields: []string{strings.Repeat("x", maxEntry)}}}}
	if e.size() <= maxEntry {
		t.Errorf("an entry with %d bytes of pointers counts as %d", maxEntry, e.size())
	}
}

// TestMayMiss: what is sealed within a member that is masked, and has to be there, need not be there any more.
func TestMayMiss(t *testing.T) {
	optional := []string{"/z", "/other"}[:1]
	v := Verdict{Fields: []string{"/a", "/a/b", "/ab", "/o/b", "/z"}, Optional: optional,
		Masked: &Masking{Fields: []string{"/a", "/o"}, Optional: []string{"/o"}}}
	if got := v.MayMiss(); !slices.Equal(got, []string{"/z", "/a/b"}) || optional[:2][1] != "/other" {
		t.Errorf("got %v", got)
	}
	v.Masked = nil
	if got := v.MayMiss(); !slices.Equal(got, []string{"/z"}) {
		t.Errorf("without a masking: %v", got)
	}
}
