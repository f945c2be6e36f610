package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// drawn is the load in the plot: the one that keeps the machine busy.
const drawn = "_x64"

// plotted writes the CPU per request, as times the relay's, as bars with their values.
func plotted(file string, r *results) error {
	p := plot.New()
	p.Title.Text = "CPU per request, as times that of a plain gRPC relay (64 callers)"
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	var names []string
	for _, w := range r.works {
		if name, ok := strings.CutSuffix(w, drawn); ok {
			names = append(names, strings.ReplaceAll(name, "_", " "))
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("there is nothing to plot without works %q", "*"+drawn)
	}
	width := vg.Points(20)
	variants := slices.DeleteFunc(slices.Clone(r.variants), func(v string) bool {
		return v == direct || !slices.ContainsFunc(r.works, func(w string) bool { return strings.HasSuffix(w, drawn) && r.cpuRatio[w][v] > 0 }) ||
			v == sealedPlain
	})
	for i, v := range variants {
		var values plotter.Values
		labels := plotter.XYLabels{}
		for _, w := range r.works {
			if !strings.HasSuffix(w, drawn) {
				continue
			}
			labels.XYs = append(labels.XYs, plotter.XY{X: float64(len(values)), Y: r.cpuRatio[w][v]})
			labels.Labels = append(labels.Labels, fmt.Sprintf("%.1f", r.cpuRatio[w][v]))
			values = append(values, r.cpuRatio[w][v])
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color = plotutil.Color(i)
		bars.LineStyle.Width = 0
		bars.Offset = width * (vg.Length(i) - vg.Length(len(variants)-1)/2)
		above, err := plotter.NewLabels(labels)
		if err != nil {
			return err
		}
		above.Offset = vg.Point{X: bars.Offset - width/2 + 2, Y: 2}
		p.Add(bars, above)
		p.Legend.Add(v, bars)
	}
	p.NominalX(names...)
	c := vgsvg.New(20*vg.Centimeter, 10*vg.Centimeter)
	p.Draw(draw.New(c))
	return written(file, c)
}

// written writes a drawing into a file.
func written(file string, c *vgsvg.Canvas) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(out); err != nil {
		_ = out.Close() // the first error counts
		return err
	}
	return out.Close()
}
