package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
)

// comparison is one history, as the server stores it and as it comes through the proxy.
type comparison struct {
	stored, got []*historypb.HistoryEvent
}

// tally holds the verdict of each payload, and counts them by what they say.
type tally struct {
	count map[string]int
	of    map[string]string // by subject and slot, as payloads.yaml names them
}

func (t tally) String() string {
	var parts []string
	for _, v := range slices.Sorted(maps.Keys(t.count)) {
		parts = append(parts, fmt.Sprintf("%d %s", t.count[v], v))
	}
	return strings.Join(parts, ", ")
}

// show prints both sides of every event that holds user data.
func (c comparison) show(s *screen) (tally, error) {
	if len(c.stored) != len(c.got) {
		return tally{}, fmt.Errorf("the server has %d events and the proxy answers %d", len(c.stored), len(c.got))
	}
	s.pair(dim, [2]string{"", "VERDICT"}, cell{style: dim, text: "THE SERVER STORES", lines: 1}, cell{style: dim, text: "WORKER AND CLIENT GET", lines: 1})
	verdicts := tally{count: map[string]int{}, of: map[string]string{}}
	bare := 0
	for i, event := range c.stored {
		there, here := slotsOf(event.ProtoReflect(), ""), slotsOf(c.got[i].ProtoReflect(), "")
		if len(there) != len(here) {
			return tally{}, fmt.Errorf("event %d has %d payloads in the server and %d through the proxy", event.GetEventId(), len(there), len(here))
		}
		if len(there) == 0 {
			bare++
			continue
		}
		subject, more := subjectOf(event, c.stored)
		s.row(cell{s.width - indent, bold, fmt.Sprintf("%-2d %s %s%s", event.GetEventId(), event.GetEventType(), subject, more), 1})
		for j := range there {
			side := lookAt(there[j])
			verdicts.count[side.verdict]++
			verdicts.of[subject+" "+there[j].name] = side.verdict
			left := cell{text: side.text, lines: 3}
			if side.sealed() {
				left = cell{style: dim, text: fmt.Sprintf("%d B sealed\n%s", side.size, side.text), lines: 2}
			}
			s.pair(verdictStyle(side.verdict), [2]string{there[j].name, side.verdict}, left, cell{text: clearText(here[j]), lines: 3})
		}
	}
	s.note("%d further events hold no payload.", bare)
	return verdicts, nil
}

// pair prints one slot: its name and verdict, what the server stores, and what its reader gets.
func (s *screen) pair(st style, name [2]string, left, right cell) {
	label, verdict := 17, 13
	if s.width < 90 {
		label, verdict = 13, 12
	}
	rest := s.width - 12 - label - verdict // spaces and bars between the columns
	left.width = rest * 9 / 20
	right.width = rest - left.width
	height := max(1, len(fold(left.text, left.width, left.lines)), len(fold(right.text, right.width, right.lines)))
	bar := cell{1, dim, strings.Repeat("│", height), 0}
	s.row(cell{1, plain, "", 1}, cell{label, plain, name[0], 1}, cell{verdict, st, name[1], 1}, bar, left, bar, right)
}

// subjectOf is the workflow type, the activity type or the signal's name that an event is about, and what else is worth saying.
func subjectOf(event *historypb.HistoryEvent, events []*historypb.HistoryEvent) (subject, more string) {
	id := event.GetEventId()
	if a := event.GetWorkflowExecutionSignaledEventAttributes(); a != nil {
		return a.GetSignalName(), ""
	} else if a := event.GetActivityTaskStartedEventAttributes(); a != nil {
		id, more = a.GetScheduledEventId(), fmt.Sprintf(", attempt %d", a.GetAttempt())
	} else if a := event.GetActivityTaskCompletedEventAttributes(); a != nil {
		id = a.GetScheduledEventId()
	}
	for _, e := range events {
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil && e.GetEventId() == id {
			return a.GetActivityType().GetName(), more
		}
	}
	return events[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName(), ""
}

func verdictStyle(verdict string) style {
	switch verdict {
	case "pass":
		return dim
	case "seal phi":
		return violet
	case "seal jwt":
		return yellow
	}
	return blue
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
	return json.Compact(&a, reported) == nil && json.Compact(&b, payload.GetData()) == nil && bytes.Equal(a.Bytes(), b.Bytes())
}
