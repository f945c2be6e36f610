package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
)

// maxLines is how many lines a value may take.
const maxLines = 3

// comparison is one history, as the server stores it and as it comes through the proxy.
type comparison struct {
	stored, got []*historypb.HistoryEvent
}

// tally holds the verdict of each payload, and counts them by what they say.
type tally struct {
	order []string
	count map[string]int
	of    map[string]string // by subject and slot, as payloads.yaml names them
}

func (t *tally) add(payload, verdict string) {
	if t.count[verdict] == 0 {
		t.order = append(t.order, verdict)
	}
	t.count[verdict]++
	t.of[payload] = verdict
}

func (t *tally) String() string {
	var parts []string
	for _, v := range t.order {
		parts = append(parts, fmt.Sprintf("%d %s", t.count[v], v))
	}
	return strings.Join(parts, ", ")
}

// show prints both sides of every event that holds user data.
func (c comparison) show(s *screen) (tally, error) {
	if len(c.stored) != len(c.got) {
		return tally{}, fmt.Errorf("the server has %d events and the proxy answers %d", len(c.stored), len(c.got))
	}
	columns := s.columns()
	columns.head(s)
	verdicts := tally{count: map[string]int{}, of: map[string]string{}}
	bare := 0
	for i, event := range c.stored {
		there, here := slotsOf(event), slotsOf(c.got[i])
		if len(there) != len(here) {
			return tally{}, fmt.Errorf("event %d has %d payloads in the server and %d through the proxy", event.GetEventId(), len(there), len(here))
		}
		if len(there) == 0 {
			bare++
			continue
		}
		subject, more := subjectOf(event, c.stored)
		s.line("   %s %s", s.paint(bold, pad(fmt.Sprint(event.GetEventId()), 2)), s.paint(bold, event.GetEventType().String()+" "+subject+more))
		for j := range there {
			side := lookAt(there[j])
			verdicts.add(subject+" "+there[j].name, side.label())
			columns.row(s, there[j].name, side, clearText(here[j]))
		}
	}
	s.note("%d further events hold no payload.", bare)
	return verdicts, nil
}

// label is the verdict as it is shown and counted.
func (s stored) label() string {
	if s.verdict == "seal" {
		return "seal " + s.key
	}
	return s.verdict
}

// subjectOf is the workflow type, the activity type or the signal's name that an event is about, and what else is worth saying.
func subjectOf(event *historypb.HistoryEvent, events []*historypb.HistoryEvent) (subject, more string) {
	if a := event.GetWorkflowExecutionSignaledEventAttributes(); a != nil {
		return a.GetSignalName(), ""
	}
	if a := event.GetActivityTaskScheduledEventAttributes(); a != nil {
		return a.GetActivityType().GetName(), ""
	}
	if a := event.GetActivityTaskStartedEventAttributes(); a != nil {
		return scheduledActivity(events, a.GetScheduledEventId()), fmt.Sprintf(", attempt %d", a.GetAttempt())
	}
	if a := event.GetActivityTaskCompletedEventAttributes(); a != nil {
		return scheduledActivity(events, a.GetScheduledEventId()), ""
	}
	return events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName(), ""
}

// scheduledActivity is the type of the activity that an event scheduled.
func scheduledActivity(events []*historypb.HistoryEvent, id int64) string {
	for _, e := range events {
		if e.GetEventId() == id {
			return e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName()
		}
	}
	return ""
}

// columns are the widths of the comparison's table.
type columns struct{ label, verdict, left, right int }

const (
	rowIndent  = 5
	separators = 5 // "│ " and " │ "
)

func (s *screen) columns() columns {
	c := columns{label: 18, verdict: 14}
	if s.width < 90 {
		c = columns{label: 14, verdict: 13}
	}
	rest := s.width - rowIndent - c.label - c.verdict - separators
	c.left = rest * 9 / 20
	c.right = rest - c.left
	return c
}

func (c columns) head(s *screen) {
	s.line("     %s", s.paint(dim, pad("", c.label)+pad("VERDICT", c.verdict)+"│ "+pad(cut("THE SERVER STORES", c.left), c.left)+" │ "+cut("WORKER AND CLIENT GET", c.right)))
}

// row prints one slot: what the server stores on the left, what its reader gets on the right.
func (c columns) row(s *screen, name string, there stored, here string) {
	var left []string
	if there.verdict == "seal" {
		left = append([]string{cut(fmt.Sprintf("%d B sealed", there.size), c.left)}, chop(there.text, c.left, 1)...)
	} else {
		left = chop(there.text, c.left, maxLines)
	}
	right := chop(here, c.right, maxLines)
	for i := range max(len(left), len(right)) {
		label, verdict := "", ""
		if i == 0 {
			label, verdict = name, there.label()
		}
		s.line("     %s%s%s %s %s %s",
			pad(cut(label, c.label-1), c.label),
			s.paint(verdictStyle(there.label()), pad(cut(verdict, c.verdict-1), c.verdict)),
			s.paint(dim, "│"), s.paint(leftStyle(there), pad(at(left, i), c.left)),
			s.paint(dim, "│"), at(right, i))
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

func verdictStyle(label string) style {
	switch label {
	case "pass":
		return dim
	case "seal phi":
		return violet
	case "seal jwt":
		return yellow
	}
	return blue
}

func leftStyle(there stored) style {
	if there.verdict == "seal" {
		return dim
	}
	return plain
}

// inputs are the inputs of the activities as they come through the proxy, by activity type.
func (c comparison) inputs() map[string]*commonpb.Payload {
	inputs := map[string]*commonpb.Payload{}
	for _, e := range c.got {
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil && len(a.GetInput().GetPayloads()) > 0 {
			inputs[a.GetActivityType().GetName()] = a.GetInput().GetPayloads()[0]
		}
	}
	return inputs
}

// sameJSON compares a value that a process reported with a payload.
func sameJSON(reported json.RawMessage, payload *commonpb.Payload) bool {
	var a, b bytes.Buffer
	if json.Compact(&a, reported) != nil || json.Compact(&b, payload.GetData()) != nil {
		return false
	}
	return bytes.Equal(a.Bytes(), b.Bytes())
}
