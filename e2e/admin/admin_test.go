// Package admin looks at the status page in a real browser: in each state that an operator has to recognize, with a picture, and
// with the accessibility checks of axe-core where npm has installed them.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

const rules = `package temporal

# Traces are no secret.
request contains {"action": "pass"} if {
	input.payload.kind == "header"
	input.payload.name == "trace"
}

# Tokens do not belong into a memo.
request contains {"action": "deny", "reason": "no tokens in memos"} if {
	input.payload.kind == "memo"
	input.payload.name == "token"
}

# Workers and clients read what their namespace sealed.
response contains {"action": "open"} if input.sealed.namespace == input.namespace
`

// page is a proxy between a scripted frontend and a client, and the tab of a browser.
type page struct {
	*testing.T
	dir   string
	kms   *kmsstub.Server
	key   string // its id at the stub
	front *blackbox.Script
	proxy *harness.Proxy
	tab   context.Context
}

var pictures, checked int

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	if pictures > 0 {
		fmt.Printf("admin: %d pages looked at, %d checked for accessibility\n", pictures, checked)
	}
	os.Exit(code)
}

// serve starts a proxy whose key is in a KMS stub. before is called before the proxy starts.
func serve(t *testing.T, o harness.ProxyOptions, before func(*page)) *page {
	t.Helper()
	p := &page{T: t, dir: t.TempDir(), kms: kmsstub.New(kmsstub.Options{})}
	p.tab = openBrowser(t)
	p.key = p.kms.CreateKey(false)
	p.kms.SetAlias("alias/payments", p.key)
	p.ok(p.kms.Start("127.0.0.1:0"))
	t.Cleanup(p.kms.Close)
	var err error
	p.front, err = blackbox.StartScript()
	p.ok(err)
	t.Cleanup(p.front.Stop)
	if before != nil {
		before(p)
	}
	o.Dir, o.Upstream = p.dir, p.front.Address
	o.Env = []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}
	o.Keys = []harness.KeyOption{{Name: "default", Active: "awskms://alias/payments?region=eu-central-1&endpoint=" + p.kms.URL}}
	if o.Policy == "" {
		o.Policy = rules
	}
	p.proxy, err = harness.StartProxy(t.Context(), o)
	p.ok(err)
	t.Cleanup(p.proxy.Kill)
	return p
}

func (p *page) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// calls makes some calls: payloads are sealed, passed, denied and opened.
func (p *page) calls(namespace string) {
	p.Helper()
	client, err := blackbox.Dial(p.proxy.Address)
	p.ok(err)
	defer client.Close()
	payload := func(s string) *commonpb.Payload {
		return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"CANARY ` + s + `"`)}
	}
	fields := func(name string) map[string]*commonpb.Payload {
		return map[string]*commonpb.Payload{name: payload(name)}
	}
	for i, kind := range []string{"Payment", "Payment", "Refund"} {
		for _, memo := range []string{"customer", "token"} {
			_ = client.Do(p.Context(), blackbox.Request{Call: p.front.NewCall(), Method: "StartWorkflowExecution", Timeout: 10 * time.Second,
				Body: blackbox.Marshal(&workflowservice.StartWorkflowExecutionRequest{Namespace: namespace, WorkflowId: fmt.Sprint(kind, i),
					WorkflowType: &commonpb.WorkflowType{Name: kind}, Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{payload("input")}},
					Memo: &commonpb.Memo{Fields: fields(memo)}, Header: &commonpb.Header{Fields: fields("trace")}})})
		}
	}
	if sealed, err := p.front.Seal(p.Context(), client, namespace, "", []*commonpb.Payload{payload("signal")}); err == nil {
		_, _ = p.front.Open(p.Context(), client, namespace, "", sealed)
	}
}

// awaitStatus waits until the status, as JSON, satisfies a condition.
func (p *page) awaitStatus(what string, holds func(status map[string]any) bool) {
	p.Helper()
	var text string
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var status map[string]any
		_, body, err := p.proxy.Get("/status")
		text = body
		if err == nil && json.Unmarshal([]byte(body), &status) == nil && holds(status) {
			return
		}
	}
	p.Fatalf("%s: never\n%s", what, text)
}

// look opens the status page, takes its picture, and requires that it shows these texts, no payload and no script's work.
func (p *page) look(name string, want ...string) {
	p.Helper()
	p.open("/")
	p.lookAt("/", name, want)
}

// open opens a page of the admin listener.
func (p *page) open(path string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.tab, time.Minute)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Navigate("http://"+p.proxy.Admin+path))
	p.ok(err)
}

// lookAt is look for the page that is open.
func (p *page) lookAt(path, name string, want []string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.tab, time.Minute)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	p.ok(err)
	for _, w := range want {
		if !strings.Contains(text, w) {
			p.Errorf("%s: the page does not show %q:\n%s", name, w, text)
		}
	}
	if path == "/" && strings.Contains(text, "CANARY") {
		p.Errorf("%s: a payload is on the page", name)
	}
	p.accessible(ctx, name)
	// Pictures are for the docs: the names of this machine are not.
	_, err = chromedp.Run(ctx, chromedp.Evaluate[any](fmt.Sprintf(`document.body.innerHTML = document.body.innerHTML.replaceAll(%q, "/etc/temporal-seal");
		document.querySelectorAll("header strong").forEach(e => e.textContent = "temporal-seal-0"); 0`, p.dir)))
	p.ok(err)
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	p.ok(err)
	if shots := os.Getenv("SEAL_SCREENSHOTS"); shots != "" {
		p.ok(os.WriteFile(filepath.Join(shots, "admin-"+name+".png"), png, 0o644))
	}
	pictures++
}

// accessible requires that axe finds nothing serious on the page.
func (p *page) accessible(ctx context.Context, name string) {
	p.Helper()
	script, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		p.Logf("%s: not checked for accessibility, since npm has not installed axe-core", name)
		return
	}
	_, err = chromedp.Run(ctx, chromedp.Evaluate[any](string(script)+";0"))
	p.ok(err)
	found, err := chromedp.Run(ctx, chromedp.Evaluate[string](
		`axe.run().then(r => JSON.stringify(r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => n.html)}))))`,
		chromedp.EvalAwaitPromise))
	p.ok(err)
	var violations []struct {
		ID, Impact, Help string
		Nodes            []string
	}
	p.ok(json.Unmarshal([]byte(found), &violations))
	for _, v := range violations {
		if v.Impact == "serious" || v.Impact == "critical" {
			p.Errorf("%s: %s: %s: %s\n%s", name, v.Impact, v.ID, v.Help, strings.Join(v.Nodes, "\n"))
		}
	}
	checked++
}

// openBrowser starts a browser without scripts of pages. Where there is none the test is left out, unless it was asked for.
func openBrowser(t *testing.T) context.Context {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROME_BIN"), "chromium", "chromium-browser", "google-chrome"} {
		path, err := exec.LookPath(name)
		if name == "" || err != nil {
			continue
		}
		options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
			chromedp.WindowSize(1280, 900), chromedp.Flag("disable-background-networking", true), chromedp.Flag("force-color-profile", "srgb"))
		ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
		t.Cleanup(cancel)
		tab, cancel := chromedp.NewContext(ctx)
		t.Cleanup(cancel)
		if _, err := chromedp.Run(tab, chromedp.Navigate("about:blank")); err != nil { // a browser lives as long as its first context
			t.Fatal(err)
		}
		return tab
	}
	if os.Getenv("SEAL_BROWSER") == "required" {
		t.Fatal("no Chromium: install it (Debian: chromium), or name one in CHROME_BIN")
	}
	t.Skip("no Chromium")
	return nil
}

func TestHealthy(t *testing.T) {
	p := serve(t, harness.ProxyOptions{}, nil)
	p.calls("payments-prod")
	p.calls("refunds-prod")
	p.look("healthy", "Ready", "Nothing is held or disabled", "payments-prod", "Refund", "PERMISSION_DENIED", "active")
}

func TestStale(t *testing.T) {
	p := serve(t, harness.ProxyOptions{}, nil)
	p.calls("payments-prod")
	p.ok(harness.ReplaceFile(filepath.Join(p.dir, "policy.rego"), "package temporal\n\nrequest contains {"))
	p.awaitStatus("stale", func(s map[string]any) bool { return len(s["policy"].(map[string]any)["stale"].([]any)) > 0 })
	p.look("stale", "Ready", "changed files do not load", "policy.rego:3")
}

func TestShadow(t *testing.T) {
	p := serve(t, harness.ProxyOptions{Extra: "shadow: true\n", Candidate: rules + "\nrequest contains {\"action\": \"pass\"} if input.payload.kind == \"memo\"\n"}, nil)
	p.calls("payments-prod")
	p.look("shadow", "Shadow mode: nothing new is sealed", "payments-prod", "Candidate")
}

func TestKeyRevoked(t *testing.T) {
	p := serve(t, harness.ProxyOptions{}, nil)
	p.calls("payments-prod")
	p.kms.SetState(p.key, kmsstub.Disabled)
	p.calls("refunds-prod") // a namespace that has no data key yet
	p.awaitStatus("revoked", func(s map[string]any) bool {
		keys := s["keys"].([]any)
		return len(keys) > 0 && keys[0].(map[string]any)["state"] == "revoked"
	})
	p.look("key-revoked", "revoked", "UNAVAILABLE", "is refused by its key service")
}

func TestPollsHeld(t *testing.T) {
	p := serve(t, harness.ProxyOptions{Args: []string{"--start-timeout", "1s"}},
		func(p *page) { p.kms.Always("", kmsstub.Fault{Reset: true}) })
	client, err := blackbox.Dial(p.proxy.Address)
	p.ok(err)
	t.Cleanup(client.Close)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	for range 3 {
		go client.Do(ctx, blackbox.Request{Call: p.front.NewCall(), Method: "PollWorkflowTaskQueue", Timeout: time.Minute,
			Body: blackbox.Marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "payments-prod", TaskQueue: &taskqueuepb.TaskQueue{Name: "payments"}})})
	}
	p.awaitStatus("polls held", func(s map[string]any) bool { return s["polls_held"].(float64) == 3 })
	p.look("polls-held", "Not ready: no key answers", "3 polls held", "key does not answer")
}

// sensitive is a document in which a survey finds something, and a policy that seals a part of that.
const (
	sensitive = `{"order": "O-4711", "total": 12.5, "contact": "CANARY.jane@clinic.example", "phone": "+49 30 901820", "card": "4111 1111 1111 1111",
		"login": {"password": "CANARY-hunter2"}, "byPatient": {"CANARY.joe@clinic.example": {"diagnosis": "CANARY"}}}`
	sealsSome = rules + `
request contains {"action": "seal", "fields": ["/card", "/login/password"], "missing": "pass"} if input.workflow.type == "Checkout"

request contains {"action": "pass"} if input.workflow.type == "Delivery"
`
)

// TestSurveyed: the page shows where the survey of live traffic found something, and what of it stays in clear.
func TestSurveyed(t *testing.T) {
	p := serve(t, harness.ProxyOptions{Policy: sealsSome, Extra: "survey: {rate: 1000, cpu_percent: 20}\n"}, nil)
	client, err := blackbox.Dial(p.proxy.Address)
	p.ok(err)
	t.Cleanup(client.Close)
	input := &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(sensitive)}}}
	p.awaitStatus("surveyed", func(s map[string]any) bool {
		for i := range 30 {
			kind := []string{"Admission", "Checkout", "Delivery"}[i%3]
			_ = client.Do(p.Context(), blackbox.Request{Call: p.front.NewCall(), Method: "StartWorkflowExecution", Timeout: 10 * time.Second,
				Body: blackbox.Marshal(&workflowservice.StartWorkflowExecutionRequest{Namespace: "orders-prod", WorkflowId: fmt.Sprint(kind, i),
					WorkflowType: &commonpb.WorkflowType{Name: kind}, Input: input})})
		}
		return s["survey"].(map[string]any)["places"].(float64) >= 18 // six of each type
	})
	p.look("survey", "payloads in clear were searched", "of which 10 stay in clear", "/byPatient/{key}", "e-mail address in a member's name", "payment card", "by name")
}

// TestExplain fills in the form and reads the answer, as somebody without scripts would.
func TestExplain(t *testing.T) {
	p := serve(t, harness.ProxyOptions{}, nil)
	p.open("/explain")
	p.lookAt("/explain", "explain-form", []string{"Kind of caller", "Explain"})
	ctx, cancel := context.WithTimeout(p.tab, time.Minute)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[any](`document.querySelector("select[name=kind]").value = "memo";
		document.querySelector("input[name=name]").value = "token"; document.querySelector("textarea[name=content]").value = '"CANARY"';
		document.querySelector("button").click(); 0`))
	p.ok(err)
	for shown := false; !shown && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		shown, _ = chromedp.Run(ctx, chromedp.Evaluate[bool](`document.getElementById("verdict") !== null`)) // the page may just change
	}
	p.lookAt("/explain", "explain", []string{"Verdict: deny: no tokens in memos", `input.payload.name == "token"`, "does not hold"})
}
