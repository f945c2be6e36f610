package readers

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
)

// The verdict for each of the four values: health records and other values of the clinic, and payroll's.
type rights struct {
	person
	clinicPHI, clinicDefault, payrollPHI, payrollDefault string
}

// No reach: the caller's token does not name the namespace.
const noReach = "no reach"

var people = []rights{
	{person{"ann, a doctor", []string{"doctors"}, []string{"clinic"}}, "open", "open", noReach, noReach},
	{person{"bob of support", []string{"support"}, []string{"clinic", "payroll"}}, "redact", "open", "deny", "deny"},
	{person{"eve, an auditor", []string{"auditors"}, []string{"clinic", "payroll"}}, "keep", "keep", "keep", "keep"},
	{person{"carl, a contractor", []string{"contractors"}, []string{"clinic"}}, "deny", "open", noReach, noReach},
	{person{"dora of payroll", []string{"payroll"}, []string{"payroll"}}, noReach, noReach, "open", "open"},
	{person{"max, in two groups", []string{"support", "auditors"}, []string{"clinic"}}, "redact", "keep", noReach, noReach},
	{person{"zoe, a stranger", nil, []string{"elsewhere"}}, noReach, noReach, noReach, noReach},
	{person{"star", []string{"doctors"}, []string{"*", "cl*"}}, noReach, noReach, noReach, noReach},
}

// wanted is what a verdict comes to at an API.
func wanted(verdict string, d api) outcome {
	switch verdict {
	case "open":
		return opened
	case "redact":
		return placeholder
	case "keep":
		return ciphertext
	case "deny": // what is read payload by payload stays as it is
		if d.whole {
			return refused
		}
		return ciphertext
	}
	return refused
}

// tally counts cases.
type tally struct{ cases, right int }

// all are the cases of every test here.
var all tally

func (y *tally) check(b *bench, what string, got, want outcome) string {
	b.Helper()
	y.cases++
	if got != want {
		b.Errorf("%s: %s, want %s", what, got, want)
		return fmt.Sprintf("%s (want %s)", got, want)
	}
	y.right++
	return string(got)
}

func TestReaders(t *testing.T) {
	b := start(t)
	b.startWorkflows()
	y := &all
	fmt.Printf("%-23s %-8s %-8s %-9s", "who", "where", "key", "verdict")
	for _, d := range apis {
		fmt.Printf(" %-14s", d.name)
	}
	fmt.Println()
	for _, p := range people {
		token := b.issuer.token(p.person, nil)
		for _, c := range []struct{ namespace, workflow, key, verdict string }{
			{"clinic", "record", "phi", p.clinicPHI}, {"clinic", "note", "default", p.clinicDefault},
			{"payroll", "record", "phi", p.payrollPHI}, {"payroll", "note", "default", p.payrollDefault},
		} {
			fmt.Printf("%-23s %-8s %-8s %-9s", p.name, c.namespace, c.key, c.verdict)
			for _, d := range apis {
				got := d.read(b, c.namespace, c.workflow, token)
				fmt.Printf(" %-14s", y.check(b, strings.Join([]string{p.name, c.namespace, c.workflow, d.name}, ", "), got, wanted(c.verdict, d)))
			}
			fmt.Println()
		}
	}
	b.badTokens(y)
	b.foreignCiphertext(y)
	b.rotation(y)
	if log := b.proxy.Log.String(); strings.Contains(log, "CANARY") {
		t.Error("a value stands in the proxy's log")
	}
}

// startWorkflows stores two values in each namespace, by the workers' API: as input and as memo.
func (b *bench) startWorkflows() {
	b.Helper()
	ctx, cancel := b.context()
	defer cancel()
	for _, namespace := range []string{"clinic", "payroll"} {
		c := b.dial(b.proxy.Address, namespace, workerToken)
		for workflow, kind := range map[string]string{"record": "Record", "note": "Note"} {
			text := value(namespace, workflow)
			o := client.StartWorkflowOptions{ID: workflow, TaskQueue: "nobody", Memo: map[string]any{"note": text}}
			if _, err := c.ExecuteWorkflow(ctx, o, kind, text); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// badTokens tries, as a doctor, every token that is not quite right.
func (b *bench) badTokens(y *tally) {
	b.Helper()
	doctor := people[0].person
	hour := time.Hour
	claims := func(changed map[string]any) string { return b.issuer.token(doctor, changed) }
	head := func(alg, kid string) map[string]any { return map[string]any{"alg": alg, "kid": kid, "typ": "JWT"} }
	good := claims(nil)
	parts := strings.Split(good, ".")
	key := b.issuer.key
	forger := newSigningKey(b.T, key.id)
	for _, bad := range []struct{ what, token string }{
		{"none", ""},
		{"a worker's token", workerToken},
		{"no JWT", "abc.def"},
		{"forged", signed(forger, head("ES256", key.id), b.issuer.claims(doctor, nil))},
		{"changed", parts[0] + "." + part(b.issuer.claims(doctor, map[string]any{"sub": "root"})) + "." + parts[2]},
		{"expired", claims(map[string]any{"exp": time.Now().Add(-hour).Unix()})},
		{"without expiry", claims(map[string]any{"exp": nil})},
		{"not yet valid", claims(map[string]any{"nbf": time.Now().Add(hour).Unix()})},
		{"another audience", claims(map[string]any{"aud": "temporal-ui"})},
		{"another issuer", claims(map[string]any{"iss": "https://evil.example.com"})},
		{"alg none", signed(key, head("none", key.id), b.issuer.claims(doctor, nil))},
		{"alg HS256", signed(key, head("HS256", key.id), b.issuer.claims(doctor, nil))},
		{"unknown kid", signed(forger, head("ES256", "k9"), b.issuer.claims(doctor, nil))},
		{"wrong kid", signed(key, head("ES256", "k9"), b.issuer.claims(doctor, nil))},
	} {
		fmt.Printf("%-23s %-8s %-8s %-9s", "token: "+bad.what, "clinic", "default", "-")
		for _, d := range apis {
			got := d.read(b, "clinic", "note", bad.token)
			fmt.Printf(" %-14s", y.check(b, "token "+bad.what+", "+d.name, got, refused))
		}
		fmt.Println()
	}
}

// foreignCiphertext hands the codec server what another namespace sealed, under the name of one's own.
func (b *bench) foreignCiphertext(y *tally) {
	b.Helper()
	ctx, cancel := b.context()
	defer cancel()
	direct := b.dial(b.server.Address, "clinic", "")
	sealed, err := stored(ctx, direct, "record")
	if err != nil {
		b.Fatal(err)
	}
	got := refused
	if status, payloads := b.decode(ctx, "payroll", b.issuer.token(person{"dora of payroll", []string{"payroll"}, []string{"payroll"}}, nil), sealed); status == http.StatusOK {
		got = b.judgeAll(payloads, "clinic", "record")
	}
	fmt.Printf("%-23s %-8s %-8s %-9s %-14s %-14s %-14s\n", "stolen from clinic", "payroll", "phi", "-", "", "", y.check(b, "a stolen ciphertext", got, ciphertext))
}

// rotation changes the issuer's key. New tokens are taken at once by every API, and those of the key before no longer.
func (b *bench) rotation(y *tally) {
	b.Helper()
	doctor := people[0].person
	before := b.issuer.token(doctor, nil)
	b.issuer.rotate(newSigningKey(b.T, "k2"))
	after := b.issuer.token(doctor, nil)
	// The unknown key ids above have used up the fetch that unknown key ids may cause every ten seconds.
	for end := time.Now().Add(30 * time.Second); b.readDescription("clinic", "note", after) != opened || b.readCodec("clinic", "note", after) != opened; {
		if time.Now().After(end) {
			break
		}
		time.Sleep(time.Second)
	}
	for _, c := range []struct {
		what, token string
		want        outcome
	}{{"token: rotated key", after, opened}, {"token: key before", before, refused}} {
		fmt.Printf("%-23s %-8s %-8s %-9s", c.what, "clinic", "default", "-")
		for _, d := range apis {
			fmt.Printf(" %-14s", y.check(b, c.what+", "+d.name, d.read(b, "clinic", "note", c.token), c.want))
		}
		fmt.Println()
	}
}
