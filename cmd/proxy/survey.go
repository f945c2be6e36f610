package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/internal/app"
	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/survey"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
	"github.com/temporal-seal/temporal-seal/internal/upstream"
)

// surveyOptions are the flags of survey.
type surveyOptions struct {
	flags config.Flags
	// To walk; empty: all that the upstreams serve.
	namespaces []string
	// The candidate policy: a file, or a folder of namespaces' policies. "": none.
	candidate string
	// Folder for a policy from the findings. "": none is written.
	write string
	// File with detectors of the user's own. "": none.
	rules string
	// Times between which workflows started, or durations before now. "": no bound.
	since, until string
	// Calls a second in all, and to the visibility store.
	rate, listRate float64
	// Workflows of a type, and payloads of a kind of it.
	samples int
	state   string
	html    string
	output  outputFormat
}

// surveyCommand finds out where secrets and personal data are, for somebody who has not installed anything yet.
func surveyCommand() *cobra.Command {
	var o surveyOptions
	cmd := &cobra.Command{
		Use:   "survey [FILE...]",
		Short: "Find out where secrets and personal data are in what a server holds",
		Long: `survey walks what a server holds as keys scan does, or reads saved histories and exports, and reports where it finds tokens, keys,
passwords, personal data and health records: by namespace, workflow type, activity type, kind and JSON pointer, with what the policy does there.
No value is printed or stored. It asks the server gently, changes nothing, and needs no key.

With --config the policy in force is asked what it would do with each payload, with --policy a candidate too. --write-policy writes a policy
from the findings with its cases. Names of persons and free text have no form: they are found by the names of members alone.`,
		Example: `  temporal-seal survey --upstream temporal:7233 --namespace clinic-prod --since 168h --html survey.html
  temporal-seal survey --upstream temporal:7233 --state survey.json --write-policy ./policies
  temporal-seal survey --config config.yaml --policy ./policies history.json`,
		RunE: o.run,
	}
	f := cmd.Flags()
	f.StringVar(&o.flags.File, "config", "", "config file in YAML: its upstreams are walked, and its policy is evaluated")
	f.StringVar(&o.flags.Upstream, "upstream", "",
		"address of the Temporal frontend (default: the config's, "+standard.Upstreams[0].Address+" without one)")
	f.StringSliceVarP(&o.namespaces, "namespace", "n", nil, "namespaces to walk (default: all); of files: the one that they are from")
	f.StringVar(&o.candidate, "policy", "", "candidate policy: a Rego file, or a folder of namespaces' policies")
	f.StringVar(&o.write, "write-policy", "", "new folder for a policy from the findings, with its cases")
	f.StringVar(&o.rules, "rules", "", "YAML file with detectors of your own")
	f.StringVar(&o.since, "since", "", "only workflows that started since then: a time (RFC 3339) or a duration before now")
	f.StringVar(&o.until, "until", "", "only workflows that started before then")
	f.Float64Var(&o.rate, "rate", 20, "calls a second to the server, at most")
	f.Float64Var(&o.listRate, "list-rate", 3, "of these, calls a second to its visibility store, at most")
	f.IntVar(&o.samples, "samples", 1000, "workflows to read of each type, and payloads to search of each kind of it; 0: all")
	f.StringVar(&o.state, "state", "", "file to save the state in after each page, and to go on from if it is there")
	f.StringVar(&o.html, "html", "", "file for the report as one page")
	o.output.flag(cmd)
	return cmd
}

// run surveys files or a server, and writes the reports.
func (o *surveyOptions) run(cmd *cobra.Command, files []string) error {
	if o.rate <= 0 || o.listRate <= 0 || o.samples < 0 {
		return errors.New("--rate and --list-rate: write a number above 0; --samples: 0 or more")
	}
	if len(files) > 0 && o.state != "" {
		return errors.New("--state is for surveys of a server: leave it out with files")
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := o.flags.Load()
	if err != nil {
		return err
	}
	options, err := o.options(ctx, c)
	if err != nil {
		return err
	}
	state := &survey.State{Scan: new(scan.State), Table: new(survey.Table)}
	if o.state != "" {
		if state, err = survey.ReadState(o.state); err != nil {
			return fmt.Errorf("--state: %w; remove the file to start anew", err)
		}
	}
	s, err := survey.New(options, state.Table)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		err = o.files(ctx, s, files)
	} else {
		err = o.server(ctx, cmd, c, options.Rewriter, s, state)
	}
	if err != nil {
		return err
	}
	if o.write != "" {
		rules, err := s.WritePolicy(o.write)
		if err != nil {
			return fmt.Errorf("--write-policy: %w", err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s in %s; check them with: temporal-seal check --namespaces %s\n", count(rules, "rule"), o.write, o.write)
	}
	return o.report(cmd, s.Report(state.Scan.Namespaces, time.Now()))
}

// options loads what a survey needs: detectors and policies.
func (o *surveyOptions) options(ctx context.Context, c *config.Config) (options survey.Options, err error) {
	options.Samples, options.Detector = o.samples, new(detect.Detector)
	if o.rules != "" {
		if options.Detector, err = detect.ReadRules(o.rules); err != nil {
			return options, fmt.Errorf("--rules: %w", err)
		}
	}
	if options.Rewriter, err = rewrite.New(rewrite.Options{Log: quiet}); err != nil {
		return options, err
	}
	if o.flags.File != "" {
		if options.InForce, err = policyWithoutKeys(ctx, c); err != nil {
			return options, err
		}
	}
	if o.candidate == "" {
		return options, nil
	}
	info, err := os.Stat(o.candidate)
	if err != nil {
		return options, fmt.Errorf("--policy: %w", err)
	}
	with := *c
	if with.Policy.Bundle = nil; info.IsDir() {
		with.Policy.Namespaces = o.candidate
	} else {
		with.Policy.File = o.candidate
	}
	options.Candidate, err = policyWithoutKeys(ctx, &with)
	return options, err
}

// files surveys saved histories.
func (o *surveyOptions) files(ctx context.Context, s *survey.Survey, files []string) error {
	namespace := "default"
	switch len(o.namespaces) {
	case 0:
	case 1:
		namespace = o.namespaces[0]
	default:
		return errors.New("--namespace: files are from one namespace; survey those of another one on their own")
	}
	for _, file := range files {
		data, err := readFileOrStdin(file)
		if err != nil {
			return fmt.Errorf("the history cannot be read: %w", err)
		}
		if err := s.File(ctx, namespace, file, data); err != nil {
			return err
		}
	}
	return nil
}

// server surveys what a server holds, one namespace after the other.
func (o *surveyOptions) server(
	ctx context.Context, cmd *cobra.Command, c *config.Config, rewriter *rewrite.Rewriter, s *survey.Survey, state *survey.State,
) error {
	query, err := o.window(time.Now())
	if err != nil {
		return err
	}
	upstreams, err := app.Upstreams(c, quiet)
	if err != nil {
		return err
	}
	upstream.Learn(ctx, upstreams, rewriter.Join, quiet)
	if len(o.namespaces) == 0 {
		if o.namespaces, err = allNamespaces(ctx, upstreams); err != nil {
			if status.Code(errors.Unwrap(err)) == codes.Unavailable {
				return outOfReach(err)
			}
			return fmt.Errorf("the server does not list its namespaces: %w; name them with --namespace", err)
		}
	}
	progress := progress{out: cmd.ErrOrStderr(), table: state.Table, began: time.Now()}
	scanner := scan.New(scan.Options{Rewriter: rewriter, Rate: o.rate, ListRate: o.listRate, Gentle: true, Query: query,
		Want: s.Want, Look: func(a *scan.Answer) { s.Look(ctx, a) }, Progress: progress.show,
		Save: func(*scan.State) error {
			if o.state == "" {
				return nil
			}
			return state.Save(o.state)
		}})
	walk := scanOptions{state: o.state}
	for _, namespace := range o.namespaces {
		progress.total = countWorkflows(ctx, upstreams, namespace, query)
		if err := walk.walk(ctx, scanner, upstreams, namespace, state.Scan); err != nil {
			if s := status.Convert(err); s.Code() == codes.Unavailable {
				return outOfReach(err)
			}
			return err
		}
	}
	return nil
}

func outOfReach(err error) error {
	return fmt.Errorf("the server is out of reach: %w; check --upstream, or the config's upstreams", err)
}

// countWorkflows returns how many workflows a namespace has, and 0 if the server does not say: it is for the estimate alone.
func countWorkflows(ctx context.Context, upstreams []upstream.Config, namespace, query string) int64 {
	router := upstream.NewRouter(upstreams, nil)
	defer router.Close()
	conn, err := router.Route(namespace)
	if err != nil {
		return 0
	}
	n, err := scan.Count(ctx, conn, namespace, query)
	if err != nil {
		return 0
	}
	return n
}

// window returns the visibility query for workflows that started within --since and --until.
func (o *surveyOptions) window(now time.Time) (string, error) {
	var parts []string
	for _, bound := range []struct{ flag, value, operator string }{{"--since", o.since, ">="}, {"--until", o.until, "<"}} {
		if bound.value == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, bound.value)
		if before, durationErr := time.ParseDuration(bound.value); durationErr == nil {
			at, err = now.Add(-before), nil
		}
		if err != nil {
			return "", fmt.Errorf("%s: %q is neither a time such as 2026-01-31T00:00:00Z nor a duration such as 168h", bound.flag, bound.value)
		}
		parts = append(parts, fmt.Sprintf("StartTime %s '%s'", bound.operator, at.UTC().Format(time.RFC3339)))
	}
	return strings.Join(parts, " AND "), nil
}
