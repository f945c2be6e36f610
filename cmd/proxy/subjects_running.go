package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// runningWork is how erase looks for what runs and holds payloads of the subject, and what it does with that.
type runningWork struct {
	offline   bool // the Temporal server is not asked
	terminate bool
	rate      float64
	most      int // workflows that are read
}

func (w *runningWork) addFlags(o *subjectOptions, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.flags.Upstream, "upstream", "", "address of the Temporal frontend (default: the config's)")
	f.BoolVar(&w.offline, "offline", false, "with --dry-run: do not ask the Temporal server for what runs")
	f.BoolVar(&w.terminate, "terminate", false, "terminate the running workflows that hold payloads of the subject, with the reason")
	f.Float64Var(&w.rate, "rate", 50, "calls a second to the Temporal server, at most")
	f.IntVar(&w.most, "max-workflows", 10_000, "running workflows to read, at most")
	f.StringVar(&o.query, "query", "", "visibility query that narrows the running workflows to read")
}

func (w *runningWork) check() error {
	switch {
	case w.rate <= 0 || w.most <= 0:
		return errors.New("--rate and --max-workflows: write a number above 0")
	case w.offline && w.terminate:
		return errors.New("--terminate asks the Temporal server; leave --offline out")
	}
	return nil
}

// find writes into the certificate what runs and holds payloads under keys of the subject, and what could not be read.
func (w *runningWork) find(cmd *cobra.Command, o *subjectOptions, found []keyring.Found, c *certificate) *scan.Running {
	c.Running, c.Read = []*scan.Holder{}, map[string]int{}
	keys := map[crypto.KeyID]bool{}
	for _, f := range found {
		for _, r := range f.Rows {
			keys[r.ID] = true
		}
	}
	delete(keys, crypto.KeyID{}) // of the generation that nothing was sealed with
	rewriter, err := rewrite.New(rewrite.Options{Log: quiet})
	if err != nil {
		c.NotRead = append(c.NotRead, err.Error())
		return new(scan.Running)
	}
	running, state := &scan.Running{Rewriter: rewriter, Keys: keys, Most: w.most}, new(scan.State)
	walk := scanOptions{flags: o.flags, namespaces: []string{o.namespace}, rate: w.rate}
	err = walk.walkAll(cmd.Context(), cmd, o.config, state, running.Options(o.query))
	c.NotRead = append(c.NotRead, running.Unread...)
	if err != nil {
		c.NotRead = append(c.NotRead, fmt.Sprintf("the Temporal server was not read: %v", err))
	}
	if running.Beyond > 0 {
		c.NotRead = append(c.NotRead, fmt.Sprintf("%s beyond --max-workflows", count(running.Beyond, "running workflow")))
	}
	if n := state.Namespaces[o.namespace]; n != nil {
		c.Read, c.NotRead = n.Walked, append(c.NotRead, n.Reasons...)
	}
	c.Running = append(c.Running, running.Holders...)
	return running
}

// end terminates the workflows that were found.
func (w *runningWork) end(ctx context.Context, o *subjectOptions, running *scan.Running, c *certificate) error {
	upstreams, err := app.Upstreams(o.config, quiet)
	if err != nil {
		return err
	}
	router := upstream.NewRouter(upstreams, nil)
	defer router.Close()
	conn, err := router.Route(o.namespace)
	if err != nil {
		return err
	}
	reason := "temporal-seal: it held payloads of a subject that was erased: " + o.reason
	c.NotRead = append(c.NotRead, running.Terminate(ctx, conn, o.namespace, reason, w.rate)...)
	return nil
}

// hidden returns a text, unless it contains the subject, which no output may hold.
func (o *subjectOptions) hidden(text string) string {
	if errors.Is(keyring.CheckReason(text, o.text), keyring.ErrReasonNamesSubject) {
		return "(contains the subject)"
	}
	return text
}

// withoutSubject hides what contains the subject. A run id still names a workflow.
func (o *subjectOptions) withoutSubject(c *certificate) {
	for _, h := range c.Running {
		h.ID, h.Type, h.Cron = o.hidden(h.ID), o.hidden(h.Type), o.hidden(h.Cron)
		for i := range h.Retrying {
			h.Retrying[i] = o.hidden(h.Retrying[i])
		}
	}
	for i := range c.NotRead {
		c.NotRead[i] = o.hidden(c.NotRead[i])
	}
}
