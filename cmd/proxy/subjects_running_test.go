package main

import (
	"testing"

	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// TestNamesWithTheSubjectAreHidden: ids are chosen by callers, who put names of persons into them.
func TestNamesWithTheSubjectAreHidden(t *testing.T) {
	const hidden = "(contains the subject)"
	holders := []*scan.Holder{{ID: "visit-p-17", RunID: "r", Type: "Visit", Retrying: []string{"1", "P-17"}, Cron: "@daily p-17"}, {ID: "visit-18", Type: "P-17-Visit"}}
	c := &certificate{Running: holders, NotRead: []string{"PermissionDenied: visit-P-17", "2 running workflows beyond --max-workflows"}}
	(&subjectOptions{text: []byte("P-17")}).withoutSubject(c)
	if c.NotRead[0] != hidden || c.NotRead[1] == hidden || holders[0].Cron != hidden || holders[1].Cron != "" {
		t.Errorf("printed are %v and the cron schedules %q and %q", c.NotRead, holders[0].Cron, holders[1].Cron)
	}
	a, b := holders[0], holders[1]
	if a.ID != hidden || a.RunID != "r" || a.Type != "Visit" || a.Retrying[0] != "1" || a.Retrying[1] != hidden || b.ID != "visit-18" || b.Type != hidden {
		t.Errorf("printed are %+v and %+v", a, b)
	}
}
