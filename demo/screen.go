package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// Columns of a screen, and before each line.
const defaultWidth, minWidth, maxWidth, indent = 100, 64, 150, 3

// screen prints the demo's story: in colors on a terminal, plain elsewhere and where NO_COLOR is set.
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

// paint wraps text in a style, if there are colors.
func (s *screen) paint(st style, text string) string {
	if !s.color || st == plain || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

func (s *screen) raw(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.w, text)
}

func (s *screen) line(format string, args ...any) { s.raw(fmt.Sprintf(format, args...) + "\n") }

// step begins a part of the story.
func (s *screen) step(title string) {
	s.steps++
	head := fmt.Sprintf("%d  %s ", s.steps, title)
	s.line("\n%s%s", s.paint(bold, head), s.paint(dim, strings.Repeat("─", max(0, s.width-utf8.RuneCountInString(head)))))
}

func (s *screen) done(format string, args ...any) {
	s.row(cell{1, green, "✓", 1}, cell{s.width - indent - 2, plain, fmt.Sprintf(format, args...), 0})
}

func (s *screen) fail(format string, args ...any) {
	s.row(cell{1, red, "✗", 1}, cell{s.width - indent - 2, red, fmt.Sprintf(format, args...), 0})
}

func (s *screen) note(format string, args ...any) {
	s.row(cell{s.width - indent, dim, fmt.Sprintf(format, args...), 0})
}

// cell is a text in a row of a table. A negative width moves it to the right.
type cell struct {
	width int
	style style
	text  string
	lines int // that it may take; 0: as many as it needs
}

// row prints cells beside each other, a space between two.
func (s *screen) row(cells ...cell) {
	texts, height := make([][]string, len(cells)), 1
	for i, c := range cells {
		texts[i] = fold(c.text, max(c.width, -c.width), c.lines)
		height = max(height, len(texts[i]))
	}
	for n := range height {
		b := strings.Repeat(" ", indent-1)
		for i, c := range cells {
			text := ""
			if n < len(texts[i]) {
				text = texts[i][n]
			}
			fill := strings.Repeat(" ", max(0, max(c.width, -c.width)-utf8.RuneCountInString(text)))
			switch {
			case c.width < 0:
				b += " " + fill + s.paint(c.style, text)
			case i == len(cells)-1:
				b += " " + s.paint(c.style, text)
			default:
				b += " " + s.paint(c.style, text) + fill
			}
		}
		s.line("%s", b)
	}
}

// fold breaks text into lines of a width, at spaces and commas if there are some; in the last of a limited number of lines an
// ellipsis stands for the rest.
func fold(text string, width, lines int) (out []string) {
	for r := []rune(text); len(r) > 0; {
		if lines > 0 && len(out) == lines {
			last := []rune(out[lines-1])
			out[lines-1] = strings.TrimRight(string(last[:min(len(last), width-1)]), " ") + "…"
			break
		}
		n := min(width, len(r))
		end := slices.Index(r[:min(n+1, len(r))], '\n')
		if end >= 0 {
			n = end
		}
		for i := n; end < 0 && n < len(r) && len(out) != lines-1 && i > width/2; i-- {
			if r[i-1] == ',' || r[i] == ' ' {
				n = i
				break
			}
		}
		out = append(out, string(r[:n]))
		if r = r[n:]; len(r) > 0 && (r[0] == ' ' || r[0] == '\n') {
			r = r[1:]
		}
	}
	return out
}

// slowly prints a line of what is written to it now and then: of downloads and builds, which may take minutes.
type slowly struct {
	s    *screen
	next time.Time
}

func (p *slowly) Write(b []byte) (int, error) {
	if text := strings.TrimSpace(string(b)); text != "" && time.Now().After(p.next) {
		p.s.note("… %s", text)
		p.next = time.Now().Add(20 * time.Second)
	}
	return len(b), nil
}

// since prints the time that has passed.
func since(began time.Time) string { return short(time.Since(began)) }

// short prints a duration with three digits at most.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// plural counts a thing.
func plural(n int, thing string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
