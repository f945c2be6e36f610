package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// rulesOf writes a package whose set holds the given verdicts unconditionally.
func rulesOf(pkg, set string, verdicts ...string) string {
	var b strings.Builder
	b.WriteString("package " + pkg + "\n")
	for _, v := range verdicts {
		fmt.Fprintf(&b, "\n%s contains %s\n", set, v)
	}
	return b.String()
}

func TestUnionOfVerdicts(t *testing.T) {
	const (
		seal  = `{"action": "seal"}`
		pass  = `{"action": "pass"}`
		deny  = `{"action": "deny", "reason": "no"}`
		phi   = `{"action": "seal", "key": "phi"}`
		jwt   = `{"action": "seal", "key": "jwt"}`
		open  = `{"action": "open"}`
		keep  = `{"action": "keep"}`
		gone  = `{"action": "redact"}`
		note  = `{"action": "redact"} if input.payload.kind == "reason"`
		self  = `{"action": "accept"}`
		small = `{"action": "seal", "compress": true}`
		partA = `{"action": "seal", "key": "phi", "fields": ["/a"]}`
		partB = `{"action": "seal", "key": "jwt", "fields": {"/b", "/a"}}`
		butA  = `{"action": "seal", "clear": ["/a", "/b"]}`
		butB  = `{"action": "seal", "clear": ["/b", "/c"]}`
		butC  = `{"action": "seal", "clear": ["/c"]}`
		none  = `{"action": "seal", "fields": []}`
		root  = `{"action": "seal", "fields": ["/a", ""]}`
		mayA  = `{"action": "seal", "fields": ["/a", "/c"], "missing": "pass"}`
		mayB  = `{"action": "seal", "fields": ["/c"], "missing": "pass"}`
	)
	mtls := NewCaller("mtls", "w", "", nil)
	for name, tt := range map[string]struct {
		d              Direction
		kind           string
		caller         *Caller
		platform, team []string
		want           Verdict
	}{
		"nothing":                             {want: Verdict{Action: Seal, Key: "default"}},
		"pass":                                {team: []string{pass}, want: Verdict{Action: Pass}},
		"platform seals, team passes":         {platform: []string{seal}, team: []string{pass}, want: Verdict{Action: Seal, Key: "default"}},
		"platform passes, team seals":         {platform: []string{pass}, team: []string{phi}, want: Verdict{Action: Seal, Key: "phi"}},
		"deny over seal":                      {platform: []string{deny}, team: []string{phi, pass}, want: Verdict{Action: Deny, Reason: "no"}},
		"two reasons":                         {platform: []string{deny}, team: []string{`{"action": "deny", "reason": "also"}`}, want: Verdict{Action: Deny, Reason: "also; no"}},
		"deny without a reason":               {team: []string{`{"action": "deny"}`}, want: Verdict{Action: Deny, Reason: "denied by policy"}},
		"the key named first":                 {platform: []string{jwt, seal}, team: []string{phi}, want: Verdict{Action: Seal, Key: "phi"}},
		"the default key has a rank too":      {platform: []string{seal}, team: []string{`{"action": "seal", "key": "low"}`}, want: Verdict{Action: Seal, Key: "default"}},
		"whole before fields":                 {platform: []string{seal}, team: []string{partA}, want: Verdict{Action: Seal, Key: "phi"}},
		"fields come together":                {platform: []string{partA}, team: []string{partB}, want: Verdict{Action: Seal, Key: "phi", Fields: []string{"/a", "/b"}}},
		"clear is what all leave clear":       {platform: []string{butA}, team: []string{butB}, want: Verdict{Action: Seal, Key: "default", Clear: []string{"/b"}}},
		"no common clear":                     {platform: []string{butA}, team: []string{butC}, want: Verdict{Action: Seal, Key: "default"}},
		"fields and clear":                    {platform: []string{partA}, team: []string{butA}, want: Verdict{Action: Seal, Key: "phi"}},
		"no fields at all":                    {team: []string{none, pass}, want: Verdict{Action: Seal, Key: "default"}},
		"the whole document as a field":       {team: []string{root}, want: Verdict{Action: Seal, Key: "default"}},
		"fields that may be missing":          {team: []string{mayA}, want: Verdict{Action: Seal, Key: "default", Fields: []string{"/a", "/c"}, Optional: []string{"/a", "/c"}}},
		"one that another rule requires":      {platform: []string{partA}, team: []string{mayA}, want: Verdict{Action: Seal, Key: "phi", Fields: []string{"/a", "/c"}, Optional: []string{"/c"}}},
		"two that may be missing":             {platform: []string{mayA}, team: []string{mayB}, want: Verdict{Action: Seal, Key: "default", Fields: []string{"/a", "/c"}, Optional: []string{"/a", "/c"}}},
		"whole before what may be missing":    {platform: []string{seal}, team: []string{mayA}, want: Verdict{Action: Seal, Key: "default"}},
		"compress":                            {team: []string{small, pass}, want: Verdict{Action: Seal, Key: "default", Compress: true}},
		"compress only if all agree":          {platform: []string{seal}, team: []string{small}, want: Verdict{Action: Seal, Key: "default"}},
		"accept over pass":                    {caller: mtls, team: []string{self, pass}, want: Verdict{Action: Accept, Key: "default"}},
		"seal over accept":                    {caller: mtls, platform: []string{phi}, team: []string{self}, want: Verdict{Action: Seal, Key: "phi"}},
		"accept from nobody in particular":    {team: []string{self}, want: Verdict{Action: Seal, Key: "default"}},
		"a search attribute":                  {kind: KindSearchAttribute, want: Verdict{Action: Pass}},
		"a search attribute cannot be sealed": {kind: KindSearchAttribute, team: []string{phi, self}, want: Verdict{Action: Pass}},
		"but refused":                         {kind: KindSearchAttribute, platform: []string{deny}, team: []string{pass}, want: Verdict{Action: Deny, Reason: "no"}},
		"a reason":                            {kind: KindReason, team: []string{seal}, want: Verdict{Action: Pass}},
		"a reason redacted":                   {kind: KindReason, platform: []string{note}, team: []string{pass}, want: Verdict{Action: Redact}},
		"a reason denied":                     {kind: KindReason, platform: []string{note, deny}, want: Verdict{Action: Deny, Reason: "no"}},
		"response without rules":              {d: Response, want: Verdict{Action: Deny, Reason: "no rule opens it"}},
		"open":                                {d: Response, platform: []string{open}, want: Verdict{Action: Open}},
		"keep over open":                      {d: Response, platform: []string{open}, team: []string{keep}, want: Verdict{Action: Keep}},
		"a text redacted":                     {kind: KindText, platform: []string{`{"action": "redact"} if input.payload.kind == "text"`}, team: []string{pass}, want: Verdict{Action: Redact}},
		"redact over keep":                    {d: Response, platform: []string{gone}, team: []string{keep, open}, want: Verdict{Action: Redact}},
		"deny over redact":                    {d: Response, platform: []string{open, gone}, team: []string{deny}, want: Verdict{Action: Deny, Reason: "no"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustLoad(t, map[string]string{
				"policy.rego": rulesOf("temporal", tt.d.String(), tt.platform...),
				"team.rego":   rulesOf("temporal.namespaces.team", tt.d.String(), tt.team...),
			}, ranked("phi", "jwt", "default", "low"), func(o *Options) {
				o.DefaultKey = func(string) (string, bool) { return "default", true }
			})
			got := decide(t, p, tt.d, &Input{Namespace: "team", Kind: cmp.Or(tt.kind, KindInput), Caller: tt.caller})
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// TestUnconfiguredKey names a key that only some namespaces have: nothing may be
// forwarded, and the error says which rule it was.
func TestUnconfiguredKey(t *testing.T) {
	ctx := context.Background()
	p := mustLoad(t, map[string]string{"policy.rego": `package temporal

request contains {"action": "seal"}

request contains {"action": "seal", "key": "phi"} if input.payload.kind == "memo"
`}, func(o *Options) {
		o.KeyRank = func(namespace, key string) (int, bool) { return 0, key == "default" && namespace != "bare" }
		o.DefaultKey = func(namespace string) (string, bool) { return "default", namespace != "bare" }
	})
	if v := decide(t, p, Request, &Input{Namespace: "a", Kind: KindInput}); v.Key != "default" {
		t.Errorf("got %s", v)
	}
	for name, tt := range map[string]struct {
		in             Input
		text, location string
	}{
		"named":   {Input{Namespace: "a", Kind: KindMemo}, `key "phi" is not configured for namespace "a"`, "policy.rego:5"},
		"default": {Input{Namespace: "bare", Kind: KindInput}, `no default key serves namespace "bare"`, "policy.rego:3"},
	} {
		_, err := p.Decide(ctx, Request, &tt.in)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Error(), tt.text) || !strings.HasSuffix(e.Location, tt.location) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestBadVerdicts are rules that hold for one input only, so no dry run meets them.
func TestBadVerdicts(t *testing.T) {
	for verdict, want := range map[string]string{
		`{"action": concat("", ["encr", "ypt"])}`:                 "unknown action; the actions of a request are accept, deny, drop, mask, pass, redact, seal",
		`{"action": concat("", ["op", "en"])}`:                    "unknown action",
		`{"action": "redact"}`:                                    `redact in a request is for payload.kind "reason" and "text" alone`,
		`{"action": 7}`:                                           `requires "action"`,
		`{"verdict": "seal"}`:                                     `requires "action"`,
		`"seal"`:                                                  "this one is a string",
		`["seal"]`:                                                "this one is an array",
		`{"action": "seal", "kye": "phi"}`:                        `action seal has no member "kye"`,
		`{"action": "seal", "key": 1}`:                            `member "key"`,
		`{"action": "seal", "key": ""}`:                           `member "key"`,
		`{"action": "pass", "key": "phi"}`:                        `action pass has no member "key"`,
		`{"action": "seal", "fields": "/a"}`:                      `member "fields"`,
		`{"action": "seal", "fields": {"a": "/a"}}`:               `member "fields"`,
		`{"action": "seal", "fields": ["a"]}`:                     `JSON pointers such as "/patient_id"`,
		`{"action": "seal", "fields": ["/a~2"]}`:                  `member "fields"`,
		`{"action": "seal", "fields": ["/a"], "clear": ["/b"]}`:   "must not have both",
		`{"action": "deny", "reason": ["x"]}`:                     `member "reason"`,
		`{"action": "seal", "missing": "pass"}`:                   `member "missing" requires "fields"`,
		`{"action": "seal", "clear": ["/a"], "missing": "pass"}`:  `member "missing" requires "fields"`,
		`{"action": "seal", "fields": ["/a"], "missing": "deny"}`: `member "missing"`,
		`{"action": "pass", "missing": "pass"}`:                   `action pass has no member "missing"`,
		`{"action": "seal", "compress": "yes"}`:                   `member "compress"`,
	} {
		p := mustLoad(t, map[string]string{"policy.rego": "package temporal\n\nrequest contains {\"action\": \"pass\"}\n\nrequest contains " + verdict + ` if input.payload.name == "bad"`})
		_, err := p.Decide(context.Background(), Request, &Input{Namespace: "n", Kind: KindMemo, Name: "bad"})
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", verdict, err, want)
		} else if !strings.HasSuffix(e.Location, "policy.rego:5") || e.Package != "temporal" || e.Namespace != "n" {
			t.Errorf("%s: blamed %q in package %q, namespace %q", verdict, e.Location, e.Package, e.Namespace)
		}
	}
}
