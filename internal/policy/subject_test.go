package policy

import (
	"cmp"
	"errors"
	"strings"
	"testing"
)

const sealsPatient = `{"action": "seal", "key": "phi", "subject": {"pointer": "/patient"}}`

func TestSubjectsOfVerdicts(t *testing.T) {
	for name, tt := range map[string]struct {
		platform, team []string
		want           Subject
		err            string
	}{
		"none":             {team: []string{`{"action": "seal"}`}},
		"pointer":          {team: []string{sealsPatient}, want: Subject{Pointer: "/patient"}},
		"fact":             {team: []string{`{"action": "seal", "subject": {"fact": "workflow.id"}}`}, want: Subject{Fact: "workflow.id"}},
		"default":          {team: []string{`{"action": "seal", "subject": {"pointer": "/a"}, "default_subject": "nobody"}`}, want: Subject{Pointer: "/a", Default: "nobody"}},
		"one of two rules": {platform: []string{`{"action": "seal"}`}, team: []string{sealsPatient}, want: Subject{Pointer: "/patient"}},
		"the same twice":   {platform: []string{sealsPatient}, team: []string{`{"action": "seal", "subject": {"pointer": "/patient"}}`}, want: Subject{Pointer: "/patient"}},
		"two":              {platform: []string{sealsPatient}, team: []string{`{"action": "seal", "subject": {"pointer": "/donor"}}`}, err: "/patient here, and /donor at"},
		"two defaults": {platform: []string{sealsPatient},
			team: []string{`{"action": "seal", "subject": {"pointer": "/patient"}, "default_subject": "x"}`}, err: "rules name different subjects"},
		"a default and none": {team: []string{sealsPatient, `{"action": "seal", "subject": {"pointer": "/patient"}, "default_subject": "x"}`}, err: "default_subject"},
		"deny wins":          {platform: []string{`{"action": "deny"}`}, team: []string{sealsPatient}},
		"star":               {team: []string{`{"action": "seal", "subject": {"pointer": "/a/*"}}`}, err: "member subject must be"},
		"whole document":     {team: []string{`{"action": "seal", "subject": {"pointer": ""}}`}, err: "member subject must be"},
		"unknown fact":       {team: []string{`{"action": "seal", "subject": {"fact": "workflow.run"}}`}, err: "member subject must be"},
		"both":               {team: []string{`{"action": "seal", "subject": {"fact": "workflow.id", "pointer": "/a"}}`}, err: "member subject must be"},
		"text":               {team: []string{`{"action": "seal", "subject": "/a"}`}, err: "member subject must be"},
		"empty default":      {team: []string{`{"action": "seal", "subject": {"pointer": "/a"}, "default_subject": ""}`}, err: "default_subject"},
		"default alone":      {team: []string{`{"action": "seal", "default_subject": "x"}`}, err: `requires "subject"`},
		"subject of a pass":  {team: []string{`{"action": "pass", "subject": {"pointer": "/a"}}`}, err: "has no member \"subject\""},
		"computed":           {team: []string{`{"action": "seal", "subject": {"pointer": concat("", ["/", "a"])}}`}, err: "write its text in the rule"},
		"computed from it":   {team: []string{`{"action": "seal", "subject": {"pointer": "/a"}, "default_subject": input.content.json.a}`}, err: "write its text in the rule"},
		"too long a default": {team: []string{`{"action": "seal", "subject": {"pointer": "/a"}, "default_subject": "` + strings.Repeat("x", 257) + `"}`}, err: "default_subject"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := load(t, map[string]string{"policy.rego": rulesOf("temporal", "request", tt.platform...),
				"clinic.rego": rulesOf(`temporal.namespaces.clinic`, "request", tt.team...)}, ranked("phi", "default"))
			var v Verdict
			if err == nil {
				v, err = p.Decide(t.Context(), Request, &Input{Namespace: "clinic", Kind: KindInput, Encoding: "json/plain", Data: []byte(`{"a":"P-1"}`),
					NotApplicable: AllFacts})
			}
			switch {
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "P-1")):
				t.Errorf("verdict %s, error %v; want one with %q", v, err, tt.err)
			case tt.err == "" && (err != nil || v.Subject != tt.want):
				t.Errorf("subject %+v, error %v; want %+v", v.Subject, err, tt.want)
			}
			if strings.HasPrefix(name, "two") && !errors.Is(err, ErrTwoSubjects) {
				t.Errorf("the error is not ErrTwoSubjects: %v", err)
			}
		})
	}
}

// TestSubjectsNeedSomething: where rules may name no subject, one that does is an error when it is loaded, with its line.
func TestSubjectsNeedSomething(t *testing.T) {
	files := map[string]string{"clinic.rego": rulesOf("temporal.namespaces.clinic", "request", sealsPatient)}
	none := func(o *Options) { o.NoSubjects = "configure key_store" }
	if _, err := load(t, files, ranked("phi", "default"), none); err == nil || !strings.Contains(err.Error(), "clinic.rego:3") ||
		!strings.Contains(err.Error(), "configure key_store") {
		t.Errorf("error %v", err)
	}
	computed := map[string]string{"clinic.rego": "package temporal.namespaces.clinic\n\nrequest contains v if v := " + sealsPatient + "\n"}
	p, err := load(t, computed, ranked("phi", "default"), none)
	if err == nil {
		_, err = p.Decide(t.Context(), Request, &Input{Namespace: "clinic", Kind: KindInput, NotApplicable: AllFacts})
	}
	if err == nil || !strings.Contains(err.Error(), "configure key_store") {
		t.Errorf("a verdict that a rule computes: %v", err)
	}
	p = mustLoad(t, files, ranked("phi", "default"))
	if !NamesSubjects(p, "clinic") || NamesSubjects(p, "other") {
		t.Error("it is not known which namespace names subjects")
	}
}

func TestSubjectsApart(t *testing.T) {
	rules := `package temporal.namespaces.clinic

request contains {"action": "seal", "subject": {"pointer": "/patient"}} if input.payload.kind == "input"
`
	in := func() *Input { return &Input{Namespace: "clinic", Encoding: "json/plain"} }
	p := mustLoad(t, map[string]string{"clinic.rego": rules})
	if v, err := p.DecideApart(t.Context(), Request, in()); err != nil || v.Subject.Pointer != "/patient" {
		t.Errorf("verdict %s, error %v", v, err)
	}
	p = mustLoad(t, map[string]string{"clinic.rego": rules +
		`request contains {"action": "seal", "subject": {"pointer": "/donor"}} if input.payload.kind == "result"`})
	if v, err := p.DecideApart(t.Context(), Request, in()); err != nil || v.Action != Deny {
		t.Errorf("two subjects: verdict %s, error %v", v, err)
	}
}

func TestFacts(t *testing.T) {
	in := &Input{WorkflowID: "w", Known: FactWorkflowID, Kind: KindInput}
	if value, known := in.Fact("workflow.id"); value != "w" || !known {
		t.Errorf("%q, %v", value, known)
	}
	for _, name := range []string{"workflow.type", "payload.kind"} {
		if _, known := in.Fact(name); known {
			t.Errorf("%s is a known fact", name)
		}
	}
}

// TestUnknownSubject: a payload for whose subject a rule reads something unknown is not sealed with the key of nobody.
func TestUnknownSubject(t *testing.T) {
	const patient = `"subject": {"pointer": "/patient"}}`
	for name, tt := range map[string]struct {
		rules string
		data  string
		kind  string
		known MemberSet
		want  Action
	}{
		"fact":                           {rules: `request contains {"action": "seal", ` + patient + ` if input.workflow.type == "Admission"`, want: Deny},
		"fact that the request contains": {rules: `request contains {"action": "seal", ` + patient + ` if input.workflow.type == "Admission"`, known: AllFacts, want: Seal},
		"another kind":                   {rules: `request contains {"action": "seal", ` + patient + ` if { input.payload.kind == "memo"; input.workflow.type == "Admission" }`, want: Seal},
		"computed":                       {rules: `request contains v if { input.workflow.type == "Admission"; v := {"action": "seal", ` + patient + ` }`, want: Deny},
		"from a helper":                  {rules: `request contains object.union(person, {"action": "seal"}) if input.workflow.type == "Admission"` + "\nperson := {" + patient, want: Deny},
		"beside a pass": {rules: `request contains {"action": "pass"}` + "\n" + `request contains {"action": "seal", ` + patient + ` if input.workflow.type == "Admission"`,
			want: Deny},
		"a subject for all": {rules: `request contains {"action": "seal", ` + patient + "\n" + `request contains {"action": "seal", ` + patient + ` if input.workflow.type == "Admission"`,
			want: Seal},
		"a rule without one": {rules: `request contains {"action": "seal", ` + patient + ` if input.payload.kind == "memo"` + "\n" +
			`request contains {"action": "pass"} if input.workflow.type == "Admission"`, want: Seal},
		"a document":         {rules: `request contains {"action": "seal", ` + patient + ` if input.content.json.patient`, data: `{"x":1}`, want: Seal},
		"not readable":       {rules: `request contains {"action": "seal", ` + patient + ` if input.content.json.patient`, data: `{"a":1,"a":2}`, want: Deny},
		"a search attribute": {rules: `request contains {"action": "seal", ` + patient + ` if input.workflow.type == "Admission"`, kind: KindSearchAttribute, want: Pass},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustLoad(t, map[string]string{"clinic.rego": "package temporal.namespaces.clinic\n\n" + tt.rules + "\n"})
			in := &Input{Namespace: "clinic", Kind: cmp.Or(tt.kind, KindInput), Encoding: "json/plain", Data: []byte(cmp.Or(tt.data, `{"patient":"P-1"}`)), Known: tt.known}
			v, err := p.Decide(t.Context(), Request, in)
			if err != nil || v.Action != tt.want || tt.want == Deny && !strings.Contains(v.Reason, "clinic.rego:") {
				t.Errorf("verdict %s, reason %q, error %v", v, v.Reason, err)
			}
			if !NamesSubjects(p, "clinic") {
				t.Error("it is not known that a rule may name a subject")
			}
		})
	}
}
