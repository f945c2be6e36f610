package readers

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// What stands in a visit's payloads, each in a place of its own on the pages.
const (
	inInput     = "Maren Voss, room 12"
	inResult    = "discharged on Friday"
	inMemo      = "allergic to penicillin"
	inFailure   = "no bed for Maren Voss"
	inHeartbeat = "blood pressure 120/80"
)

// visit is a workflow with a result, a failure, or an activity that goes on, as its id says.
func visit(ctx workflow.Context, _ map[string]string) (map[string]string, error) {
	switch workflow.GetInfo(ctx).WorkflowExecution.ID {
	case "visit-failed":
		return nil, temporal.NewNonRetryableApplicationError(inFailure, "NoBed", nil)
	case "visit-waiting":
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Hour, HeartbeatTimeout: time.Hour})
		return nil, workflow.ExecuteActivity(ctx, "Watch").Get(ctx, nil)
	}
	return map[string]string{"outcome": inResult}, nil
}

// watch answers how the patient is, and does not end by itself.
func watch(ctx context.Context) error {
	activity.RecordHeartbeat(ctx, inHeartbeat)
	select {
	case <-ctx.Done():
	case <-activity.GetWorkerStopChannel(ctx):
	}
	return errors.New("stopped")
}

// startVisits runs the workflows until there is something to look at, and gives their runs by id.
func (b *bench) startVisits() map[string]string {
	b.Helper()
	ctx, cancel := b.context()
	defer cancel()
	w := worker.New(b.workers, "visits", worker.Options{MaxHeartbeatThrottleInterval: 100 * time.Millisecond, DefaultHeartbeatThrottleInterval: 100 * time.Millisecond})
	w.RegisterWorkflowWithOptions(visit, workflow.RegisterOptions{Name: "Record"})
	w.RegisterActivityWithOptions(watch, activity.RegisterOptions{Name: "Watch"})
	if err := w.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.Stop)
	runs := map[string]string{}
	for _, id := range []string{"visit-completed", "visit-failed", "visit-waiting"} {
		o := client.StartWorkflowOptions{ID: id, TaskQueue: "visits", Memo: map[string]any{"note": inMemo}}
		run, err := b.workers.ExecuteWorkflow(ctx, o, "Record", map[string]string{"patient": inInput})
		if err != nil {
			b.Fatal(err)
		}
		runs[id] = run.GetRunID()
		if id != "visit-waiting" {
			_ = run.Get(ctx, nil) // one of them fails, as it should
			continue
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			d, err := b.workers.DescribeWorkflowExecution(ctx, id, "")
			if err == nil && len(d.PendingActivities) == 1 && d.PendingActivities[0].HeartbeatDetails != nil {
				break
			}
			if time.Now().After(end) {
				b.Fatalf("no heartbeat: %v, %v", d, err)
			}
		}
	}
	return runs
}

// sight is one page, and what the doctor sees on it.
type sight struct {
	name, id, tab string
	values        []string
}

var sights = []sight{
	{"completed", "visit-completed", "history", []string{inInput, inResult}},
	{"memo", "visit-completed", "memo", []string{inMemo}},
	{"failed", "visit-failed", "history", []string{inInput, inFailure}},
	{"pending", "visit-waiting", "pending-activities", []string{inHeartbeat}},
}

// viewer is somebody before the browser.
type viewer struct {
	person
	alias string
	sees  string
	// want stands on each page, in the place of values; "" means the values themselves.
	want string
}

// ciphertextShown stands for how the stored envelopes begin.
const ciphertextShown = "ciphertext"

var viewers = []viewer{
	{person{"ann, a doctor", []string{"doctors"}, []string{"clinic"}}, "doctor", "the values", ""},
	{person{"bob of support", []string{"support"}, []string{"clinic"}}, "support", "a placeholder", "[sealed]"},
	{person{"zoe, a stranger", nil, []string{"elsewhere"}}, "stranger", "ciphertext", ciphertextShown},
}

// TestWebUI logs three people in to a real Temporal Web UI, in a real browser, and looks at what the pages show them. The UI reads
// from the Temporal server itself, and has the codec server open what it may.
func TestWebUI(t *testing.T) {
	browser := findBrowser(t)
	b := start(t)
	runs := b.startVisits()
	ui, err := peers.StartWebUIWith(t.Context(), peers.WebUIOptions{Frontend: b.server.Address, Port: b.uiPort, CodecEndpoint: b.codec, Issuer: b.issuer.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ui.Stop() })
	shots := os.Getenv("SEAL_SCREENSHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	mark := b.ciphertextMark()
	for _, v := range viewers {
		if v.want == ciphertextShown {
			v.want = mark
		}
		b.issuer.mu.Lock()
		b.issuer.user = v.person
		b.issuer.mu.Unlock()
		tab := b.openBrowser(browser)
		if _, err := chromedp.Run(tab, chromedp.Navigate(b.uiURL()+"/auth/sso")); err != nil {
			t.Fatal(err)
		}
		for _, s := range sights {
			all.cases++
			url := fmt.Sprintf("%s/namespaces/clinic/workflows/%s/%s/%s", b.uiURL(), s.id, runs[s.id], s.tab)
			if b.look(tab, v, s, url, filepath.Join(shots, "webui-"+v.alias+"-"+s.name+".png")) {
				all.right++
				fmt.Printf("web UI: %s sees %s on page %q\n", v.name, v.sees, s.name)
			}
		}
	}
}

// ciphertextMark is how each of the stored envelopes begins, as the UI writes it: they are all of one key.
func (b *bench) ciphertextMark() string {
	b.Helper()
	ctx, cancel := b.context()
	defer cancel()
	sealed, err := stored(ctx, b.dial(b.server.Address, "clinic", ""), "visit-completed")
	if err != nil || len(sealed) == 0 || classify(sealed[0], "") != ciphertext {
		b.Fatalf("the server stores %v, %v", sealed, err)
	}
	return base64.StdEncoding.EncodeToString(sealed[0].Data)[:16]
}

// findBrowser names the browser. Where there is none the test is left out, unless it was asked for.
func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROME_BIN"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	if os.Getenv("SEAL_BROWSER") == "required" {
		t.Fatal("no Chromium: install it (Debian: chromium), or name one in CHROME_BIN")
	}
	t.Skip("no Chromium")
	return ""
}

// openBrowser starts a browser of its own, without cookies, that trusts the codec server's certificate and no other of that kind.
func (b *bench) openBrowser(path string) context.Context {
	b.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1280, 900),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("ignore-certificate-errors-spki-list", b.spki), chromedp.Flag("force-color-profile", "srgb"))
	ctx, cancel := chromedp.NewExecAllocator(b.Context(), options...)
	b.Cleanup(cancel)
	tab, cancel := chromedp.NewContext(ctx)
	b.Cleanup(cancel)
	return tab
}

// look opens a page and waits until it shows what it should. The picture is taken in any case.
func (b *bench) look(tab context.Context, v viewer, s sight, url, picture string) bool {
	b.Helper()
	want := s.values
	if v.want != "" {
		want = []string{v.want}
	}
	want = append(slices.Clone(want), s.id)
	ctx, cancel := context.WithTimeout(tab, 2*time.Minute)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Navigate(url)); err != nil {
		b.Errorf("%s, %s: %v", v.name, s.name, err)
		return false
	}
	var text string
	// The UI shows what is stored first, and what the codec server made of it some seconds later.
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && missing(text, want) != ""; time.Sleep(250 * time.Millisecond) {
		var err error
		if text, err = chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`)); err != nil {
			b.Errorf("%s, %s: %v", v.name, s.name, err)
			return false
		}
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.Errorf("%s, %s: %v", v.name, s.name, err)
		return false
	}
	if err := os.WriteFile(picture, png, 0o644); err != nil {
		b.Fatal(err)
	}
	good := true
	if m := missing(text, want); m != "" {
		b.Errorf("%s, %s: %q is not on the page:\n%s", v.name, s.name, m, text)
		good = false
	}
	for _, value := range []string{inInput, inResult, inMemo, inFailure, inHeartbeat} {
		if v.want != "" && strings.Contains(text, value) {
			b.Errorf("%s, %s: %q is on the page", v.name, s.name, value)
			good = false
		}
	}
	return good
}

func missing(text string, want []string) string {
	for _, w := range want {
		if !strings.Contains(text, w) {
			return w
		}
	}
	return ""
}
