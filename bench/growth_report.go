package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// grown are all axes with their curves.
type grown []grownAxis

type grownAxis struct {
	axis
	sizes  []int
	curves []curve
}

// report prints the curves, and writes them to the document and the plot. It fails where a curve is steeper than it may be.
func (g *growth) report(ctx context.Context, all grown) error {
	all.tables(os.Stdout)
	failed := all.lines(os.Stdout)
	if g.allow {
		failed = nil
	}
	if g.plot != "" {
		if err := all.plotted(g.plot); err != nil {
			return errors.Join(failed, err)
		}
	}
	if g.doc == "" {
		return failed
	}
	on, err := machine(ctx, g.proxy)
	if err != nil {
		return errors.Join(failed, err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s\nMedians of %d turns of %s.\n\n", on, g.rounds, g.turn)
	all.tables(&text)
	return errors.Join(failed, replaced(g.doc, "scale", text.String()))
}

// tables writes what a person reads: a table for each axis.
func (all grown) tables(w io.Writer) {
	for _, a := range all {
		fmt.Fprintf(w, "**%s.** %s\n\n| %s |", strings.ToUpper(a.name[:1])+a.name[1:], a.about, a.name)
		for _, n := range a.sizes {
			fmt.Fprintf(w, " %s |", grouped(n))
		}
		fmt.Fprintf(w, " curve |\n|---|%s---|\n", strings.Repeat("---|", len(a.sizes)))
		for _, c := range a.curves {
			fmt.Fprintf(w, "| %s |", strings.TrimSuffix(c.what+", "+c.unit, ", "))
			for _, v := range c.values {
				fmt.Fprintf(w, " %s |", figure(v, c.unit))
			}
			text, _ := c.verdict() // lines reports the error
			if c.most != unjudged {
				text += fmt.Sprintf(" (may be %s)", c.most)
			}
			fmt.Fprintf(w, " %s |\n", text)
		}
		fmt.Fprintln(w)
	}
}

// figure writes a value so that the digits that stand are those that mean something.
func figure(v float64, unit string) string {
	switch {
	case unit == "" && v < 100:
		return fmt.Sprintf("%.2f", v)
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	}
	return grouped(int(v + 0.5))
}

// grouped writes a number with commas between thousands.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// lines writes what a program reads, and the summary.
func (all grown) lines(w io.Writer) error {
	counts, tooSteep := map[shape]int{}, 0
	var failed error
	for _, a := range all {
		for _, c := range a.curves {
			fmt.Fprintf(w, "scale %s / %s:", strings.ReplaceAll(a.name, " ", "_"), strings.ReplaceAll(c.what, " ", "_"))
			for i, v := range c.values {
				fmt.Fprintf(w, " %d=%.3g", c.sizes[i], v)
			}
			text, err := c.verdict()
			fmt.Fprintln(w, "", text)
			s, _ := c.shape()
			counts[s]++
			if err != nil {
				tooSteep++
				failed = errors.Join(failed, fmt.Errorf("%s: %w", a.name, err))
			}
		}
	}
	fmt.Fprintf(w, "scale: %d axes, %d curves judged: %d flat, %d linear, %d grow by too little to tell, %d steep; %d steeper than they may be\n", len(all),
		counts[flat]+counts[linear]+counts[grows]+counts[steep], counts[flat], counts[linear], counts[grows], counts[steep], tooSteep)
	return failed
}

// plotted draws a panel for each axis: what is judged, as times its first value, on logarithmic scales. There a flat line is flat,
// and what grows as fast as the axis climbs a decade for each decade.
func (all grown) plotted(file string) error {
	const columns = 3
	rows := (len(all) + columns - 1) / columns
	c := vgsvg.New(27*vg.Centimeter, vg.Length(rows)*9*vg.Centimeter)
	canvas := draw.New(c)
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: 6 * vg.Millimeter, PadY: 6 * vg.Millimeter, PadTop: 2 * vg.Millimeter,
		PadBottom: 2 * vg.Millimeter, PadLeft: 2 * vg.Millimeter, PadRight: 4 * vg.Millimeter}
	for i, a := range all {
		p, err := a.panel()
		if err != nil {
			return err
		}
		p.Draw(tiles.At(canvas, i%columns, i/columns))
	}
	return written(file, c)
}

func (a grownAxis) panel() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = a.name
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = sizesOf(a.sizes), plot.LogTicks{Prec: -1}
	p.Y.Label.Text = "times the first"
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, vg.Points(4)
	low, high := 1.0, 1.0
	n := 0
	for _, c := range a.curves {
		if c.most == unjudged || slices.Min(c.values) <= 0 {
			continue // the latter has no place on a logarithmic scale
		}
		points := make(plotter.XYs, len(c.values))
		for i, v := range c.values {
			points[i] = plotter.XY{X: float64(c.sizes[i]), Y: v / c.values[0]}
			low, high = min(low, points[i].Y), max(high, points[i].Y)
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, dots.Color = plotutil.Color(n), plotutil.Color(n)
		dots.Shape = draw.CircleGlyph{}
		line.Width = vg.Points(1.5)
		p.Add(line, dots)
		p.Legend.Add(c.what, line)
		n++
	}
	p.Y.Min, p.Y.Max = low/1.5, high*30 // room for the legend
	return p, nil
}

// sizesOf marks the sizes that were measured, and no others.
func sizesOf(sizes []int) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, n := range sizes {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: grouped(n)})
	}
	return ticks
}
