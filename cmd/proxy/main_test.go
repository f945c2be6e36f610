package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"temporal-seal": main})
}

// TestScripts runs the command line and the server as a user does. See testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"upstream": serveUpstream,
			"freeport": freePort,
			"occupy":   occupy,
			"get":      get,
			"post":     post,
			"envfile":  envFile,
			"variable": variable,
			"append":   appendTo,
			"hangup":   hangUp,
			"history":  saveHistory,
			"sqlite":   changeSQLite,
		},
	})
}

// serveUpstream runs upstream NAME, which starts a server that answers GetSystemInfo and puts its address into $NAME.
func serveUpstream(ts *testscript.TestScript, _ bool, args []string) {
	s := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(s, systemInfo{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	go s.Serve(l)
	ts.Defer(s.Stop)
	ts.Setenv(args[0], l.Addr().String())
}

type systemInfo struct {
	workflowservice.UnimplementedWorkflowServiceServer
}

func (systemInfo) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

// freeport NAME... puts addresses that nothing listens on into the variables.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer l.Close() // after all of them have been chosen
		ts.Setenv(name, l.Addr().String())
	}
}

// occupy NAME listens on an address until the script ends, and puts it into $NAME.
func occupy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// get URL TEXT waits until the URL answers 200 with a body that holds the text; ! get, until it answers otherwise, with a body
// that holds the text, or, without a text, not at all.
func get(ts *testscript.TestScript, neg bool, args []string) {
	var last string
	for range 300 {
		body, ok := fetch(args[0])
		if ok != neg && (len(args) < 2 || strings.Contains(body, args[1])) {
			return
		}
		last = body
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s: last answer: %s", args[0], last)
}

func fetch(url string) (string, bool) {
	answer, err := http.Get(url)
	if err != nil {
		return err.Error(), false
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error(), false
	}
	return string(body), answer.StatusCode == http.StatusOK
}

// post URL STATUS BODY FILE [HEADER] sends JSON in namespace clinic, requires that status, and keeps the answer.
func post(ts *testscript.TestScript, _ bool, args []string) {
	request, err := http.NewRequest(http.MethodPost, args[0], strings.NewReader(args[2]))
	ts.Check(err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Namespace", "clinic")
	if len(args) > 4 {
		name, value, _ := strings.Cut(args[4], ": ")
		request.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(request)
	ts.Check(err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	ts.Check(err)
	if got := fmt.Sprint(answer.StatusCode); got != args[1] {
		ts.Fatalf("%s: %s, %s", args[0], answer.Status, body)
	}
	// protojson puts spaces in at random, so that nobody relies on them.
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), bytes.ReplaceAll(body, []byte(" "), nil), 0o600))
}

// envfile FILE replaces $NAMEs in a file by the values of the script's variables.
func envFile(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// variable NAME FILE sets a variable to what a file has, without the end of its line. FILE may be stdout.
func variable(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// hangup sends SIGHUP to what runs in the background.
func hangUp(ts *testscript.TestScript, _ bool, _ []string) {
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGHUP))
	}
}

// append FILE TEXT adds a line to a file.
func appendTo(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	_, err = fmt.Fprintln(f, args[1])
	ts.Check(err)
	ts.Check(f.Close())
}

// sqlite FILE STATEMENT changes a key store past the product.
func changeSQLite(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	_, err = db.Exec(args[1])
	ts.Check(err)
}

// history KEYFILE FILE [STORE ID] saves a history as the Temporal CLI does, with a payload and a text sealed in namespace clinic;
// by reference, if a SQLite file is named.
func saveHistory(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	options := keyring.Options{Open: localkey.Open, Log: slog.New(slog.DiscardHandler),
		Keys: []keyring.KeyConfig{{Name: "default", Active: "local:" + ts.MkAbs(args[0])}}}
	if len(args) > 2 {
		store, err := keystore.New("sqlite:"+ts.MkAbs(args[2]), args[3])
		ts.Check(err)
		options.Store, options.Keys[0].Reference = store, true
	}
	keys, err := keyring.New(ctx, options)
	ts.Check(err)
	defer keys.Close()
	keys.Confirm("clinic")
	sealer, _, err := keys.Sealer(ctx, "clinic", "default")
	ts.Check(err)
	if len(args) > 4 { // for a subject
		sealer, _, err = keys.Subjects().Sealer(ctx, "clinic", "default", []byte(args[4]))
		ts.Check(err)
	}
	for range 4 * (len(args) / 4) { // the first ones of a data key are self-contained
		_ = sealer.Envelope()
	}
	clear, err := proto.Marshal(&commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`{"patient":"P-1"}`)})
	ts.Check(err)
	raw, err := sealer.AppendPayload(nil, clear, false, new(envelope.Nonces))
	ts.Check(err)
	text, err := sealer.Envelope().AppendText(nil, []byte("by the ward's wish"), new(envelope.Nonces))
	ts.Check(err)
	sealed := new(commonpb.Payload)
	ts.Check(proto.Unmarshal(raw, sealed))
	saved, err := temporalproto.CustomJSONMarshalOptions{Indent: "  "}.Marshal(&historypb.History{Events: []*historypb.HistoryEvent{
		{EventId: 1, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{sealed}}}}},
		{EventId: 2, Attributes: &historypb.HistoryEvent_WorkflowExecutionTerminatedEventAttributes{WorkflowExecutionTerminatedEventAttributes: &historypb.WorkflowExecutionTerminatedEventAttributes{
			Reason: string(text)}}},
	}})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), saved, 0o600))
}
