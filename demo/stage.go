package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

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
	st.findServer(ctx)
	if err := st.buildProxy(ctx, scheme, false); err != nil {
		return err
	}
	if err := st.startKeys(ctx, scheme); err != nil {
		return err
	}
	st.useClinicPolicies()
	if err := st.explain(ctx); err != nil {
		return err
	}
	s.step("The servers")
	if err := st.startTemporal(ctx); err != nil {
		return err
	}
	if ui {
		if err := st.startJaeger(ctx); err != nil {
			return err
		}
	}
	if err := st.startProxy(ctx); err != nil {
		return err
	}

	s.step("The clinic's workflow")
	story, secrets, err := newStory()
	if err != nil {
		return err
	}
	reports, err := st.runClinicPrograms(ctx, story)
	if err != nil {
		return err
	}

	s.step(partBothSides)
	// What is wrong here must not keep the search from telling how bad it is.
	wrong := st.compare(ctx, story.WorkflowID, reports)
	if wrong != nil {
		s.fail("%v", wrong)
	}

	s.step("What it cost")
	if code, metrics, err := st.proxy.Get("/metrics"); err != nil || code != http.StatusOK {
		s.fail("the proxy's metrics cannot be read: status %d, %v", code, err)
	} else {
		showCosts(s, costsOf(metrics))
	}

	s.step(partSecrets)
	if err := errors.Join(wrong, st.search(ctx, story.WorkflowID, secrets)); err != nil {
		return err
	}
	if ui {
		return st.stay(ctx, story.WorkflowID)
	}
	return nil
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

// search looks for the secrets in every byte of the database and in everything that the server itself answers. It looks for the
// workflow's id too, which has to be there: a search of the files that finds nothing at all proves nothing.
func (st *stage) search(ctx context.Context, workflowID string, secrets []secret) error {
	sweep, control := sweepFor(secrets...), sweepFor(secret{"the workflow's id", workflowID})
	if err := errors.Join(sweep.Files(st.databaseDir()), control.Files(st.databaseDir())); err != nil {
		return err
	}
	conn, err := grpc.NewClient(st.temporal.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(sweep.Recorder("answer")))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := harness.Frontend(ctx, conn, clinic.Namespace); err != nil {
		return err
	}
	found, absent := sweep.Found()
	if len(found) > 0 {
		for line := range strings.SplitSeq(sweep.Report(), "\n") {
			st.s.fail("%s", line)
		}
	}
	for _, what := range absent {
		st.s.done("%s: not found", what)
	}
	n, searched := sweep.Count()
	st.s.note("Searched: the database's files as bytes, all pages (free ones and the write-ahead log too), and every answer of the server about the namespace, "+
		"%.1f MB in all; for each secret as it is, in base64, in hex, and in what was compressed.", float64(searched)/1e6)
	if controls, _ := control.Count(); controls == 0 {
		return errors.New("the search did not find the workflow's id in the database either, so it proves nothing")
	}
	text := fmt.Sprintf("%d of %d secrets found in the server", n, len(secrets))
	if n > 0 {
		st.s.line("\n   %s", st.s.paint(red, text))
		return errors.New("the server holds clear text that it must not hold")
	}
	st.s.note("The workflow's id, which stays readable, was found in the database: the search works.")
	st.s.line("\n   %s", st.s.paint(green, text))
	return nil
}
