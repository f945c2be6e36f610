package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/survey"
)

// progress shows how far a survey is, and how long it may still take.
type progress struct {
	out   io.Writer
	table *survey.Table
	began time.Time
	total int64 // workflows of the namespace; 0: unknown
}

// show prints a line after a page of workflows, or of something else.
func (p *progress) show(namespace, what string, n *scan.Namespace) {
	switch what {
	case "workflows":
	case "settings", "system workflows": // nothing of them is searched
		return
	default:
		fmt.Fprintf(p.out, "%s: %s: %d read, %d unread\n", namespace, what, n.Walked[what], n.Unread)
		return
	}
	read, skipped := 0, 0
	for _, t := range p.table.Types {
		if t.Namespace == namespace {
			read, skipped = read+t.Read, skipped+t.Skipped
		}
	}
	left := ""
	if done := int64(read + skipped); done > 0 && p.total > done {
		took := time.Since(p.began)
		left = fmt.Sprintf(", about %s left", (took * time.Duration(p.total-done) / time.Duration(done)).Round(time.Second))
	}
	of := ""
	if p.total > 0 {
		of = fmt.Sprintf(" of %d", p.total)
	}
	fmt.Fprintf(p.out, "%s: workflows: %d%s read, %d skipped, %d unread%s\n", namespace, read, of, skipped, n.Unread, left)
}

// report writes the report to where the flags say, and the policy.
func (o *surveyOptions) report(cmd *cobra.Command, r *survey.Report) error {
	if o.html != "" {
		f, err := os.OpenFile(o.html, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("--html: %w", err)
		}
		if err := cmp.Or(r.HTML(f), f.Close()); err != nil {
			return fmt.Errorf("--html: %w", err)
		}
	}
	if o.output.json() {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	return printSurvey(cmd.OutOrStdout(), r)
}

// printSurvey prints the report for people: what was searched, the findings by risk, and what cannot be sealed.
func printSurvey(w io.Writer, r *survey.Report) error {
	s := newStyle(w)
	for _, source := range r.Sources {
		s.line("%s  %s", s.bold("namespace "+source.Namespace), searchedText(&source))
		for _, reason := range source.Unread.Reasons {
			s.line("  %s: %s", s.red("unread"), reason)
		}
		if more := source.Unread.Count - len(source.Unread.Reasons); more > 0 {
			s.line("  and %d more that could not be read", more)
		}
	}
	s.line("")
	if s.err != nil {
		return s.err
	}
	if err := printFindings(s, r); err != nil {
		return err
	}
	if len(r.Leaves) > 0 {
		s.line("")
		s.line("%s", s.bold("The candidate policy leaves these readable beside sealed members:"))
		for _, left := range r.Leaves {
			s.line("  %s: %s", left.At, left.List())
		}
	}
	if len(r.Readable) > 0 {
		s.line("")
		s.line("%s", s.bold("These fields cannot be sealed, since the server reads them:"))
		t := newTable(s.w)
		for _, x := range r.Readable {
			fmt.Fprintf(t, "  %s\t%s\t%d\t%s\n", x.What, x.Certainty, x.Count,
				strings.Join(strings.Fields(strings.Join([]string{x.Namespace, x.WorkflowType, x.Site, x.Name}, " ")), " "))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	n := r.Summary
	s.line("")
	s.line("%s searched of %d; %d sealed, %d encoded by others", count(n.Searched, "payload"), n.Payloads, n.Sealed, n.Encoded)
	s.line("%s with findings stored in clear", count(n.Stored, "place"))
	if r.Policy {
		s.line("the policy in force would leave %d of them in clear", *n.InClear)
	}
	if r.Candidate {
		s.line("the candidate policy would leave %d of them in clear", *n.CandidateClear)
	}
	s.line("%s cannot be sealed", count(n.Readable, "finding"))
	return s.err
}

// printFindings prints the table of findings, by risk.
func printFindings(s *style, r *survey.Report) error {
	found := r.Found()
	if len(found) == 0 {
		s.line("Nothing was found.")
		return s.err
	}
	t := newTable(s.w)
	head := "FOUND\tSURE\tSTORED IN CLEAR"
	if r.Policy {
		head += "\tPOLICY LEAVES"
	}
	if r.Candidate {
		head += "\tCANDIDATE LEAVES"
	}
	fmt.Fprintln(t, head+"\tPLACE\tPOINTER")
	for _, row := range found {
		for _, f := range row.Findings {
			what := f.What
			if f.InName {
				what += " in a name"
			}
			clear := fmt.Sprint(f.Stored)
			if r.Policy {
				clear += fmt.Sprintf("\t%d", *f.Clear)
			}
			if r.Candidate {
				clear += fmt.Sprintf("\t%d", *f.CandidateClear)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", what, f.Certainty, clear, row.At, cmp.Or(row.Pointer, "(whole)"))
		}
	}
	return t.Flush()
}

// searchedText lists what was read of a namespace, and what was left out.
func searchedText(n *survey.Source) string {
	read, skipped := 0, 0
	for _, t := range n.Types {
		read, skipped = read+t.Read, skipped+t.Skipped
	}
	parts := []string{fmt.Sprintf("%s of %s", count(read, "workflow"), count(len(n.Types), "type"))}
	for _, what := range slices.Sorted(maps.Keys(n.Walked)) {
		if what != "workflows" {
			parts = append(parts, fmt.Sprintf("%d %s", n.Walked[what], what))
		}
	}
	if skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d more workflows not read, since enough of their types were", skipped))
	}
	if !n.Done {
		parts = append(parts, "not finished")
	}
	return strings.Join(parts, ", ")
}
