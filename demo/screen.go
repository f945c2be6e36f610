package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	defaultWidth = 100
	minWidth     = 64
	maxWidth     = 150
)

// screen prints the demo's story: in colours on a terminal, plain elsewhere and where NO_COLOR is set.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	tty   bool
	color bool
	width int
	steps int
}

func newScreen(f *os.File) *screen {
	s := &screen{w: f, width: defaultWidth, tty: term.IsTerminal(int(f.Fd()))}
	s.color = s.tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil {
		s.width = columns
	} else if columns, _, err := term.GetSize(int(f.Fd())); err == nil {
		s.width = columns
	}
	s.width = min(max(s.width, minWidth), maxWidth)
	return s
}

// style is a way to print text; its value is the SGR code of ECMA-48.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	blue   style = "34"
	violet style = "35"
	cyan   style = "36"
)

// paint wraps text in a style, if there are colours.
func (s *screen) paint(st style, text string) string {
	if !s.color || st == plain || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, format+"\n", args...)
}

// step begins a part of the story.
func (s *screen) step(title string) {
	s.steps++
	head := fmt.Sprintf("%d  %s ", s.steps, title)
	s.line("\n%s%s", s.paint(bold, head), s.paint(dim, strings.Repeat("─", max(0, s.width-utf8.RuneCountInString(head)))))
}

func (s *screen) done(format string, args ...any) {
	s.marked(green, "✓", plain, fmt.Sprintf(format, args...))
}

func (s *screen) fail(format string, args ...any) {
	s.marked(red, "✗", red, fmt.Sprintf(format, args...))
}

// marked prints text behind a mark, its further lines indented as the first.
func (s *screen) marked(markStyle style, mark string, st style, text string) {
	for i, l := range wrap(text, s.width-5) {
		if i > 0 {
			mark = " "
		}
		s.line("   %s %s", s.paint(markStyle, mark), s.paint(st, l))
	}
}

func (s *screen) note(format string, args ...any) {
	for _, l := range wrap(fmt.Sprintf(format, args...), s.width-3) {
		s.line("   %s", s.paint(dim, l))
	}
}

// progress shows what takes long. On a terminal it is one line that changes; elsewhere a line now and then.
type progress struct {
	s      *screen
	began  time.Time
	mu     sync.Mutex
	text   string
	silent time.Time // until then nothing is printed where there is no terminal
	stop   chan struct{}
	ended  chan struct{}
}

const quietTime = 20 * time.Second

func (s *screen) progress(text string) *progress {
	p := &progress{s: s, began: time.Now(), text: text, silent: time.Now().Add(quietTime), stop: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.ended)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	for i := 0; ; i++ {
		select {
		case <-p.stop:
			if p.s.tty {
				p.s.raw("\r\x1b[K")
			}
			return
		case <-tick.C:
		}
		p.mu.Lock()
		text := p.text
		p.mu.Unlock()
		elapsed := time.Since(p.began).Round(time.Second)
		if p.s.tty {
			p.s.raw("\r\x1b[K   " + p.s.paint(cyan, string(frames[i%len(frames)])) + " " + cut(fmt.Sprintf("%s (%s)", text, elapsed), p.s.width-6))
		} else if time.Now().After(p.silent) {
			p.s.line("   … %s (%s)", text, elapsed)
			p.silent = time.Now().Add(quietTime)
		}
	}
}

// Write takes progress lines of a build: the last one is shown.
func (p *progress) Write(b []byte) (int, error) {
	if text := strings.TrimSpace(string(b)); text != "" {
		p.mu.Lock()
		p.text = text
		p.mu.Unlock()
	}
	return len(b), nil
}

// end takes the line away and returns how long it was there.
func (p *progress) end() time.Duration {
	close(p.stop)
	<-p.ended
	return time.Since(p.began)
}

func (s *screen) raw(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.w, text)
}

// cut shortens text to a width, with an ellipsis.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	r := []rune(text)
	return string(r[:max(0, width-1)]) + "…"
}

// pad fills text with spaces up to a width.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// wrap breaks text at spaces; a word that is too long is broken anywhere.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		for utf8.RuneCountInString(word) > width {
			if line != "" {
				lines = append(lines, line)
				line = ""
			}
			r := []rune(word)
			lines = append(lines, string(r[:width]))
			word = string(r[width:])
		}
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// chop breaks text into lines of a width, at most a number of them; the last ends in an ellipsis if there is more. It prefers to
// break behind a comma or a space, as JSON and sentences have them.
func chop(text string, width, lines int) []string {
	r := []rune(text)
	var out []string
	for len(r) > 0 && len(out) < lines {
		n := min(width, len(r))
		if n < len(r) && len(out) < lines-1 {
			for i := n; i > n*2/3; i-- {
				if r[i-1] == ',' || r[i-1] == ' ' {
					n = i
					break
				}
			}
		}
		out = append(out, string(r[:n]))
		r = r[n:]
	}
	if len(r) > 0 {
		last := []rune(out[len(out)-1])
		out[len(out)-1] = string(last[:len(last)-1]) + "…"
	}
	return out
}
