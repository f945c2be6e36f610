package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
)

const (
	labelWidth = 18
	maxLines   = 3 // of a value
)

// comparison is one history, as the server stores it and as it comes through the proxy.
type comparison struct {
	stored, got []*historypb.HistoryEvent
}

// tally counts the verdicts by what they say.
type tally struct {
	order []string
	count map[string]int
}

func (t *tally) add(verdict string) {
	if t.count == nil {
		t.count = map[string]int{}
	}
	if t.count[verdict] == 0 {
		t.order = append(t.order, verdict)
	}
	t.count[verdict]++
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
	var verdicts tally
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
		s.line("   %s %s", s.paint(bold, pad(fmt.Sprint(event.GetEventId()), 2)), s.paint(bold, eventName(event, c.stored)))
		for j := range there {
			side := lookAt(there[j])
			verdicts.add(side.label())
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

// eventName is the event's type with the activity or workflow it belongs to.
func eventName(event *historypb.HistoryEvent, events []*historypb.HistoryEvent) string {
	name := event.GetEventType().String()
	switch {
	case event.GetWorkflowExecutionStartedEventAttributes() != nil:
		return name + " " + event.GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName()
	case event.GetWorkflowExecutionSignaledEventAttributes() != nil:
		return name + " " + event.GetWorkflowExecutionSignaledEventAttributes().GetSignalName()
	case event.GetActivityTaskScheduledEventAttributes() != nil:
		return name + " " + event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName()
	case event.GetActivityTaskStartedEventAttributes() != nil:
		a := event.GetActivityTaskStartedEventAttributes()
		return fmt.Sprintf("%s %s, attempt %d", name, scheduledActivity(events, a.GetScheduledEventId()), a.GetAttempt())
	case event.GetActivityTaskCompletedEventAttributes() != nil:
		return name + " " + scheduledActivity(events, event.GetActivityTaskCompletedEventAttributes().GetScheduledEventId())
	}
	return name
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
type columns struct{ verdict, left, right int }

func (s *screen) columns() columns {
	c := columns{verdict: 14}
	rest := s.width - 3 - labelWidth - c.verdict - 6
	c.left = rest * 2 / 5
	c.right = rest - c.left
	return c
}

func (c columns) head(s *screen) {
	s.line("   %s", s.paint(dim, pad("", labelWidth)+pad("VERDICT", c.verdict)+"│ "+pad(cut("THE SERVER STORES", c.left), c.left)+" │ "+cut("WORKER AND CLIENT GET", c.right)))
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
			pad(cut(label, labelWidth-3), labelWidth-2),
			s.paint(verdictStyle(there), pad(cut(verdict, c.verdict-1), c.verdict)),
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

func verdictStyle(there stored) style {
	switch {
	case there.verdict == "pass":
		return dim
	case there.key == "phi":
		return violet
	case there.key == "jwt":
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
