package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

const module = "github.com/temporal-seal/temporal-seal/"

// callFolders hold the files that count for the path of one call.
var callFolders = []string{"internal/server", "internal/rewrite"}

// oneCall returns the files in callFolders that one StartWorkflowExecution passes whose input is sealed,
// and how many files of other packages it passes. It runs a proxy that counts how often each block of code
// runs, without a call and with one, and compares.
func oneCall(ctx context.Context, root string) (files []string, others int, err error) {
	dir, err := os.MkdirTemp("", "house")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "proxy")
	build := exec.CommandContext(ctx, "go", "build", "-cover", "-covermode=atomic", "-coverpkg=./cmd/proxy,./internal/...", "-o", binary, "./cmd/proxy")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, 0, fmt.Errorf("build the proxy with counters: %w\n%s", err, out)
	}
	idle, err := counted(ctx, binary, filepath.Join(dir, "idle"), func(*blackbox.Script, string) error { return nil })
	if err != nil {
		return nil, 0, err
	}
	called, err := counted(ctx, binary, filepath.Join(dir, "called"), startOne)
	if err != nil {
		return nil, 0, err
	}
	passed := map[string]bool{}
	for block, n := range called {
		file, _, _ := strings.Cut(block, ":")
		if n > idle[block] {
			passed[strings.TrimPrefix(file, module)] = true
		}
	}
	for _, file := range slices.Sorted(maps.Keys(passed)) {
		if slices.Contains(callFolders, path.Dir(file)) {
			files = append(files, file)
		} else {
			others++
		}
	}
	if len(files) == 0 {
		return nil, 0, errors.New("the call passed no file: the counters do not work")
	}
	return files, others, nil
}

// startOne starts a workflow through the proxy and checks that its input was sealed.
func startOne(script *blackbox.Script, proxy string) error {
	client, err := blackbox.Dial(proxy)
	if err != nil {
		return err
	}
	defer client.Close()
	call := script.NewCall()
	script.Set(call, "StartWorkflowExecution", blackbox.Message(&workflowservice.StartWorkflowExecutionResponse{RunId: "run"}))
	const clear = `"HOUSE-CANARY"`
	answer := client.Do(context.Background(), blackbox.Request{Call: call, Method: "StartWorkflowExecution", Body: blackbox.Marshal(
		&workflowservice.StartWorkflowExecutionRequest{
			Namespace: "house", WorkflowId: "workflow", RequestId: "request",
			WorkflowType: &commonpb.WorkflowType{Name: "Type"},
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{
				{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(clear)}}},
		})})
	if answer.Code() != "OK" {
		return fmt.Errorf("the call failed: %v", answer.Status)
	}
	for _, r := range script.Of(call) {
		if r.Name() == "StartWorkflowExecution" && !bytes.Contains(r.Body, []byte(clear)) && bytes.Contains(r.Body, []byte("binary/sealed.")) {
			return nil
		}
	}
	return errors.New("the input reached the frontend unsealed")
}

// counted runs the binary until do returns, and returns how often each block ran.
func counted(ctx context.Context, binary, dir string, do func(script *blackbox.Script, proxy string) error) (map[string]int, error) {
	counters := filepath.Join(dir, "counters")
	if err := os.MkdirAll(counters, 0o700); err != nil {
		return nil, err
	}
	script, err := blackbox.StartScript()
	if err != nil {
		return nil, err
	}
	defer script.Stop()
	proxy, err := harness.StartProxy(ctx, harness.ProxyOptions{Dir: dir, Upstream: script.Address, Binary: binary, Env: []string{"GOCOVERDIR=" + counters}})
	if err != nil {
		return nil, err
	}
	err = do(script, proxy.Address)
	if err = errors.Join(err, proxy.Stop()); err != nil {
		return nil, err
	}
	profile := filepath.Join(dir, "profile")
	if out, err := exec.CommandContext(ctx, "go", "tool", "covdata", "textfmt", "-i="+counters, "-o="+profile).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("read the counters: %w\n%s", err, out)
	}
	return readProfile(profile)
}

func readProfile(name string) (map[string]int, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	counts := map[string]int{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 || fields[0] == "mode:" {
			continue
		}
		n, err := strconv.Atoi(fields[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		counts[fields[0]] = n
	}
	return counts, nil
}
