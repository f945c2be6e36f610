package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

const (
	passing = "package temporal\n\nrequest contains {\"action\": \"pass\"}\n"
	sealing = "package temporal\n\nrequest contains {\"action\": \"seal\"}\n"
	denying = "package temporal\n\nrequest contains {\"action\": \"deny\"}\n"
	broken  = "package temporal\n\nrequest contains {\n"
)

// watched starts an engine that follows its sources until the test ends.
func watched(t *testing.T, opts Options, outcome ...func(error)) *Engine {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e, err := NewEngine(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	e.Offer(e.takeAlone)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer e.Close()
		var files filewatch.Options
		if opts.File != "" {
			files.Files = []string{opts.File}
		}
		if opts.Namespaces != "" {
			files.Folders = []string{opts.Namespaces}
		}
		changes := filewatch.Notify(ctx, files)
		for opts.Bundle == nil {
			select {
			case <-ctx.Done():
				return
			case <-changes:
				err := e.takeAlone(ctx)
				for _, f := range outcome {
					f(err)
				}
			}
		}
		<-ctx.Done()
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return e
}

// takeAlone takes the newest sources over by the keys of the start.
func (e *Engine) takeAlone(ctx context.Context) error {
	files, err := e.Read(ctx)
	if err != nil {
		return err
	}
	p, err := e.Prepare(ctx, files, e.opts.KeyRank, e.opts.DefaultKey)
	if err != nil {
		return err
	}
	if len(p.missing) == 0 {
		e.Commit(p)
	}
	return p.Err()
}

// Status returns the revision in force, and why the newest sources are not, if so.
func (e *Engine) Status() (revision string, stale error) {
	p := e.Current()
	return p.Revision(), p.Err()
}

func (e *Engine) action(t *testing.T) Action {
	t.Helper()
	v, err := e.Current().Decide(context.Background(), Request, &Input{Namespace: "team", Kind: KindInput})
	if err != nil {
		t.Fatal(err)
	}
	return v.Action
}

// TestKeysChanged: a verdict that was remembered with the default key of yesterday is not given any more.
func TestKeysChanged(t *testing.T) {
	var key atomic.Value
	key.Store("old")
	e := watched(t, Options{Shipped: []byte(sealing), DefaultKey: func(string) (string, bool) { return key.Load().(string), true }})
	decide := func() string {
		v, err := e.Current().Decide(context.Background(), Request, &Input{Namespace: "team", Kind: KindInput})
		if err != nil {
			t.Fatal(err)
		}
		return v.Key
	}
	before := e.Current().Revision()
	if decide(); decide() != "old" {
		t.Fatal("not the default key")
	}
	key.Store("new")
	if err := e.takeAlone(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := decide(); got != "new" || e.Current().Revision() != before {
		t.Errorf("key %q, revision %s, want new and %s", got, e.Current().Revision(), before)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it did not happen within 10 s: %s", what)
}

// TestWatchSavePatterns changes the platform's file in each way that files are changed.
func TestWatchSavePatterns(t *testing.T) {
	for name, save := range map[string]func(t *testing.T, file, text string){
		"written in place": func(t *testing.T, file, text string) { write(t, file, text) },
		"renamed over": func(t *testing.T, file, text string) {
			write(t, file+".tmp", text)
			rename(t, file+".tmp", file)
		},
		"old one moved away first": func(t *testing.T, file, text string) {
			rename(t, file, file+"~")
			time.Sleep(150 * time.Millisecond)
			write(t, file, text)
		},
		"removed and made anew": func(t *testing.T, file, text string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			write(t, file, text)
		},
		"written in two halves": func(t *testing.T, file, text string) {
			write(t, file, text[:len(text)/2])
			time.Sleep(20 * time.Millisecond)
			write(t, file, text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refused atomic.Int32
			opts := options(t, map[string]string{"policy.rego": passing})
			e := watched(t, opts, func(err error) {
				if err != nil {
					refused.Add(1)
				}
			})
			if a := e.action(t); a != Pass {
				t.Fatalf("at first: %s", a)
			}
			save(t, opts.File, sealing)
			eventually(t, "the new policy is in force", func() bool { return e.action(t) == Seal })
			save(t, opts.File, denying)
			eventually(t, "and the next one", func() bool { return e.action(t) == Deny })
			// What is replaced in one step is never seen by halves. Of what is not, a busy
			// machine may see one; it is refused, and the old policy stays.
			if n := refused.Load(); n != 0 && name == "renamed over" {
				t.Errorf("%d half-written policies were tried", n)
			}
		})
	}
}

// TestWatchConfigMap swaps a folder as the kubelet does: the files are links through
// ..data, which is a link itself and is replaced by a rename.
func TestWatchConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish := func(version int, platform, team string) {
		data := filepath.Join(dir, fmt.Sprintf("..2026_%d", version))
		if err := os.Mkdir(data, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(data, "policy.rego"), platform)
		write(t, filepath.Join(data, "team.rego"), team)
		symlink(t, filepath.Base(data), filepath.Join(dir, "..data_tmp"))
		rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	}
	const plain = "package temporal.namespaces.team\n"
	publish(1, passing, plain)
	spaces := filepath.Join(dir, "namespaces") // another volume in life, of which the team's file is a part
	if err := os.Mkdir(spaces, 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, "..data/policy.rego", filepath.Join(dir, "policy.rego"))
	symlink(t, "../..data/team.rego", filepath.Join(spaces, "team.rego"))

	e := watched(t, Options{File: filepath.Join(dir, "policy.rego"), Namespaces: spaces})
	if a := e.action(t); a != Pass {
		t.Fatalf("at first: %s", a)
	}
	publish(2, sealing, plain)
	eventually(t, "the swapped platform's file is in force", func() bool { return e.action(t) == Seal })
	publish(3, sealing, plain+"\nrequest contains {\"action\": \"deny\"}\n")
	eventually(t, "the swapped team's file is in force", func() bool { return e.action(t) == Deny })
}

// TestVanishedFileIsWaitedFor takes a namespace's file away for a moment: its rules must hold all the while.
func TestVanishedFileIsWaitedFor(t *testing.T) {
	t.Parallel()
	const strict = "package temporal.namespaces.team\n\nrequest contains {\"action\": \"deny\"}\n"
	opts := options(t, map[string]string{"policy.rego": passing, "team.rego": strict})
	e := watched(t, opts)
	file := filepath.Join(opts.Namespaces, "team.rego")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(vanishWait / 2); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if a := e.action(t); a != Deny {
			t.Fatalf("without the file for a moment: %s", a)
		}
	}
	write(t, file, strict+"\nx := 1\n")
	before := e.Current().Revision()
	eventually(t, "the new file is in force", func() bool {
		if a := e.action(t); a != Deny {
			t.Fatalf("while the file came back: %s", a)
		}
		return e.Current().Revision() != before
	})
}

func TestBadPolicyNeverReplacesAGoodOne(t *testing.T) {
	opts := options(t, map[string]string{"policy.rego": passing, "team.rego": "package temporal.namespaces.team\n"})
	ctx := context.Background()
	e, err := NewEngine(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := e.Status()
	for name, text := range map[string]string{
		"does not compile": broken,
		"fails a dry run":  "package temporal\n\nrequest contains {\"action\": \"encrypt\"}\n",
	} {
		write(t, opts.File, text)
		for range 2 {
			if err := e.takeAlone(ctx); err == nil {
				t.Errorf("%s: it was taken", name)
			}
		}
		if revision, err := e.Status(); revision != before || err == nil || e.action(t) != Pass {
			t.Errorf("%s: revision %s, error %v", name, revision, err)
		}
	}
	write(t, opts.File, passing)
	if err := e.takeAlone(ctx); err != nil {
		t.Errorf("the good policy back again: %v", err)
	}
	if revision, err := e.Status(); revision != before || err != nil {
		t.Errorf("after that: revision %s, error %v", revision, err)
	}
	write(t, opts.File, sealing)
	if err := e.takeAlone(ctx); err != nil || e.action(t) != Seal {
		t.Errorf("a good policy after bad ones: %v", err)
	}
	// A namespace's rules end when its file is gone for good.
	if err := os.Remove(filepath.Join(opts.Namespaces, "team.rego")); err != nil {
		t.Fatal(err)
	}
	if err := e.takeAlone(ctx); err != nil || len(e.Current().Namespaces()) != 0 {
		t.Errorf("after a namespace's file was removed: %v, still rules for %v", err, e.Current().Namespaces())
	}
	if _, err := NewEngine(ctx, Options{File: opts.File + ".none"}); err == nil {
		t.Error("an engine started without a policy")
	}
}

// TestReloadUnderLoad decides in many goroutines while the policy changes: an answer
// must be that of the revision that gave it, cached or not.
func TestReloadUnderLoad(t *testing.T) {
	opts := options(t, map[string]string{"policy.rego": passing})
	ctx := context.Background()
	e, err := NewEngine(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]Action{e.Current().Revision(): Pass}
	texts := []string{sealing, denying, passing}
	for i, a := range []Action{Seal, Deny} {
		p, err := load(t, map[string]string{"policy.rego": texts[i]})
		if err != nil {
			t.Fatal(err)
		}
		wanted[p.Revision()] = a
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var decisions, revisions atomic.Int64
	for range 4 {
		wg.Go(func() {
			last := ""
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := e.Current()
				if p.Revision() != last {
					last = p.Revision()
					revisions.Add(1)
				}
				v, err := p.Decide(ctx, Request, &Input{Namespace: "n", Kind: KindInput})
				if err != nil || v.Action != wanted[p.Revision()] {
					t.Errorf("revision %s decided %s, %v", p.Revision(), v.Action, err)
					return
				}
				decisions.Add(1)
				time.Sleep(100 * time.Microsecond) // the reload needs a turn on a small machine
			}
		})
	}
	for i := range 9 {
		write(t, opts.File, texts[i%3])
		if err := e.takeAlone(ctx); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d decisions, %d changes of revision seen", decisions.Load(), revisions.Load())
	if all, withContent := e.Evaluations(); all < 9 || all > 200 || withContent != 0 {
		t.Errorf("%d evaluations, %d with content, for ten revisions in turn and one kind of payload", all, withContent)
	}
	if revisions.Load() < 9 {
		t.Errorf("only %d changes of revision were seen", revisions.Load())
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}
