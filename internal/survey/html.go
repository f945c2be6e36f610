package survey

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"percent": func(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) },
}).Parse(page))

// HTML writes the report as one page that needs nothing else: no script, and nothing from elsewhere.
func (r *Report) HTML(w io.Writer) error { return pageTemplate.Execute(w, r) }

// Found are the rows with findings.
func (r *Report) Found() []Row {
	var rows []Row
	for _, row := range r.Rows {
		if len(row.Findings) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}
