package policy

import (
	"context"
	"reflect"
	"testing"
)

// TestDecideApart: nothing shows what the payload is, so the strictest verdict for anything that it may be
// counts.
func TestDecideApart(t *testing.T) {
	const open = "\nresponse contains {\"action\": \"open\"}\n"
	for name, tt := range map[string]struct {
		d     Direction
		rules string
		want  Verdict
	}{
		"no rule":                  {Request, "", Verdict{Action: Seal, Key: "default"}},
		"pass":                     {Request, `request contains {"action": "pass"}`, Verdict{Action: Pass}},
		"pass, by kind":            {Request, `request contains {"action": "pass"} if input.payload.kind == "input"`, Verdict{Action: Seal, Key: "default"}},
		"pass, by workflow":        {Request, `request contains {"action": "pass"} if not input.workflow.type == "A"`, Verdict{Action: Seal, Key: "default", Weakened: true}},
		"pass, by name":            {Request, `request contains {"action": "pass"} if not input.payload.name == "a"`, Verdict{Action: Seal, Key: "default", Weakened: true}},
		"pass, by path":            {Request, `request contains {"action": "pass"} if not startswith(input.payload.path, "a")`, Verdict{Action: Seal, Key: "default", Weakened: true}},
		"pass, by rpc":             {Request, `request contains {"action": "pass"} if input.rpc == "Encode"`, Verdict{Action: Pass}},
		"two keys, by kind":        {Request, "request contains {\"action\": \"seal\", \"key\": \"jwt\"} if input.payload.kind == \"memo\"\nrequest contains {\"action\": \"seal\", \"key\": \"phi\"} if input.payload.kind == \"result\"", Verdict{Action: Seal, Key: "phi"}},
		"other members, by kind":   {Request, "request contains {\"action\": \"seal\", \"fields\": [\"/a\"]} if input.payload.kind == \"memo\"\nrequest contains {\"action\": \"seal\", \"fields\": [\"/b\"]} if input.payload.kind != \"memo\"", Verdict{Action: Seal, Key: "default"}},
		"deny, by kind":            {Request, `request contains {"action": "deny", "reason": "no"} if input.payload.kind == "marker"`, Verdict{Action: Deny, Reason: "no"}},
		"deny, a search attribute": {Request, "request contains {\"action\": \"pass\"}\nrequest contains {\"action\": \"deny\"} if input.payload.kind == \"search_attribute\"", Verdict{Action: Pass}},

		"nothing opens":                 {Response, "", Verdict{Action: Deny, Reason: "no rule opens it"}},
		"open":                          {Response, open, Verdict{Action: Open}},
		"redact, by kind":               {Response, open + `response contains {"action": "redact"} if input.payload.kind == "result"`, Verdict{Action: Redact}},
		"keep, by key":                  {Response, open + `response contains {"action": "keep"} if input.sealed.key == "phi"`, Verdict{Action: Keep}},
		"deny, by workflow":             {Response, open + `response contains {"action": "deny"} if input.workflow.type == "A"`, Verdict{Action: Keep, Weakened: true}},
		"deny, by activity":             {Response, open + `response contains {"action": "deny"} if input.activity.type == "A"`, Verdict{Action: Keep, Weakened: true}},
		"deny, by name":                 {Response, open + `response contains {"action": "deny"} if input.payload.name == "a"`, Verdict{Action: Keep, Weakened: true}},
		"name after a guard that fails": {Response, open + "response contains {\"action\": \"deny\"} if {\n\tinput.sealed.key == \"other\"\n\tinput.payload.name == \"a\"\n}", Verdict{Action: Open}},
	} {
		t.Run(name, func(t *testing.T) {
			rank := map[string]int{"phi": 0, "jwt": 1, "default": 2}
			p, err := Load(context.Background(), Options{Shipped: []byte("package temporal\n\n" + tt.rules + "\n"),
				KeyRank: func(_, key string) (int, bool) { r, ok := rank[key]; return r, ok }})
			if err != nil {
				t.Fatal(err)
			}
			for _, hit := range []bool{false, true} {
				in := &Input{Namespace: "team", RPC: "Encode", Encoding: "json/plain", Data: []byte(`{}`)}
				if tt.d == Response {
					in = &Input{Namespace: "team", RPC: "Decode", Sealed: Sealed{Namespace: "team", Key: "phi"}}
				}
				got, err := p.DecideApart(context.Background(), tt.d, in)
				if err != nil {
					t.Fatal(err)
				}
				tt.want.Hit, got.untold = hit, 0
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
			}
		})
	}
}

// TestApartIsRememberedApart: a verdict for a payload in its message is not one for the same payload on its
// own.
func TestApartIsRememberedApart(t *testing.T) {
	ctx := context.Background()
	p, err := Load(ctx, Options{Shipped: []byte("package temporal\n\nresponse contains {\"action\": \"open\"}\n\nresponse contains {\"action\": \"deny\"} if input.workflow.type == \"A\"\n")})
	if err != nil {
		t.Fatal(err)
	}
	in := Input{Namespace: "team", Kind: KindInput, Sealed: Sealed{Namespace: "team", Key: "phi"}}
	for range 2 {
		within, alone := in, in
		if v, err := p.Decide(ctx, Response, &within); err != nil || v.Action != Open {
			t.Errorf("within its message: %+v, %v", v, err)
		}
		if v, err := p.DecideApart(ctx, Response, &alone); err != nil || v.Action != Keep {
			t.Errorf("alone: %+v, %v", v, err)
		}
	}
}
