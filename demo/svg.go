package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Sizes of a character and a line of the picture, in pixels, and its margin.
const (
	svgColumn = 7.83
	svgLine   = 18
	svgMargin = 16
)

// svgColors are those of a dark terminal, by style.
var svgColors = map[style]string{
	red: "#ff7b72", green: "#7ee787", yellow: "#e3b341", blue: "#79c0ff", violet: "#d2a8ff", cyan: "#76e3ea", dim: "#8b949e",
}

var sgr = regexp.MustCompile("\x1b\\[([0-9]+)m(.*?)\x1b\\[0m")

// writeSVG draws what a screen has printed: the parts with these titles, in their order.
func writeSVG(file, printed string, width int, titles ...string) error {
	var lines []string
	shown := false
	for line := range strings.Lines(printed) {
		line = strings.TrimRight(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			shown = slices.Contains(titles, m[1])
		}
		if shown {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return fmt.Errorf("none of the parts %q was printed", titles)
	}
	var b strings.Builder
	w, h := float64(width)*svgColumn+2*svgMargin, len(lines)*svgLine+2*svgMargin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="13">`+"\n", w, h)
	fmt.Fprintf(&b, `<rect width="%.0f" height="%d" rx="8" fill="#0d1117"/>`+"\n", w, h)
	for i, line := range lines {
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#e6edf3" xml:space="preserve">%s</text>`+"\n", svgMargin, svgMargin+i*svgLine+13, spans(line))
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// heading is the first line of a part, with its title.
var heading = regexp.MustCompile(`^\x1b\[1m[0-9]+  (.*) \x1b\[0m`)

// spans writes a line with its styles.
func spans(line string) string {
	var b strings.Builder
	end := 0
	for _, m := range sgr.FindAllStringSubmatchIndex(line, -1) {
		escape(&b, line[end:m[0]])
		if st := style(line[m[2]:m[3]]); st == bold {
			b.WriteString(`<tspan font-weight="bold">`)
		} else {
			fmt.Fprintf(&b, `<tspan fill="%s">`, svgColors[st])
		}
		escape(&b, line[m[4]:m[5]])
		b.WriteString("</tspan>")
		end = m[1]
	}
	escape(&b, line[end:])
	return b.String()
}

func escape(b *strings.Builder, text string) {
	_ = xml.EscapeText(b, []byte(text)) // a strings.Builder takes everything
}
