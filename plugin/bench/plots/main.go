// Command plots draws the results of the benchmark as SVG files for
// docs/performance.md:
//
//	go run ./plugin/bench/plots FOLDER < RESULTS
//
// RESULTS is the file with JSON lines that the benchmark has written.
package main

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The engine is orange. What it is compared with is grey.
var (
	orange = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	grey   = color.RGBA{0x80, 0x80, 0x80, 0xff}
	light  = color.RGBA{0xc8, 0xc8, 0xc8, 0xff}
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plots FOLDER < RESULTS")
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

// run draws every plot from the results into a folder that exists.
func run(from io.Reader, folder string) error {
	all, err := readResults(from)
	if err != nil {
		return err
	}
	for name, draw := range map[string]func(results) ([]*plot.Plot, error){
		"latency.svg": latency, "rates.svg": rates, "revocation.svg": revocation, "ledger.svg": ledger,
	} {
		panels, err := draw(all)
		if err == nil {
			err = write(filepath.Join(folder, name), panels)
		}
		if err != nil {
			return fmt.Errorf("draw %s: %w", name, err)
		}
	}
	return nil
}

// write writes panels side by side to an SVG file.
func write(name string, panels []*plot.Plot) error {
	const width, height = 18 * vg.Centimeter, 7 * vg.Centimeter
	canvas := vgsvg.New(width, height)
	tiles := draw.Tiles{Rows: 1, Cols: len(panels), PadX: 6 * vg.Millimeter, PadTop: 6, PadBottom: 6, PadLeft: 10, PadRight: 10}
	area := draw.New(canvas)
	area.SetColor(color.White) // for pages with a dark background
	area.Fill(area.Rectangle.Path())
	for i, of := range plot.Align([][]*plot.Plot{panels}, tiles, area)[0] {
		panels[i].Draw(of)
	}
	var text bytes.Buffer
	if _, err := canvas.WriteTo(&text); err != nil {
		return err
	}
	const family = "font-family:Liberation Sans"
	fallback := bytes.ReplaceAll(text.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif"))
	return os.WriteFile(name, fallback, 0o644) //nolint:gosec // a picture for everyone
}

// newPlot returns an empty plot for bars, whose categories have names. The numbers
// above the bars replace the axis of their values.
func newPlot(title string, names ...string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.Title.Padding = title, 6
	p.Title.TextStyle.Font.Size = 11
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, 2
	p.Legend.TextStyle.Font.Size, p.X.Label.TextStyle.Font.Size, p.X.Tick.Label.Font.Size = 9, 9, 9
	p.NominalX(names...)
	p.HideY()
	return p
}

// A group is one series of bars.
type group struct {
	name   string // for the legend; empty: none
	values []float64
	color  color.Color
	format string // of the number above each bar
}

// addBars adds groups of upright bars of some width, with a number above each.
func addBars(p *plot.Plot, width vg.Length, groups ...group) error {
	most := 0.0
	for i, g := range groups {
		bars, err := plotter.NewBarChart(plotter.Values(g.values), width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = g.color, 0
		bars.Offset = vg.Length(float64(i)-float64(len(groups)-1)/2) * (width + 1)
		text := plotter.XYLabels{}
		for x, y := range g.values {
			most = max(most, y)
			text.XYs = append(text.XYs, plotter.XY{X: float64(x), Y: y})
			label := fmt.Sprintf(g.format, y)
			if y >= 1000 {
				label = fmt.Sprintf("%.1fk", y/1000)
			}
			text.Labels = append(text.Labels, label)
		}
		labels, err := plotter.NewLabels(text)
		if err != nil {
			return err
		}
		for j := range labels.TextStyle {
			labels.TextStyle[j].XAlign = draw.XCenter
			labels.TextStyle[j].Font = font.From(plot.DefaultFont, min(width/2, 9))
		}
		labels.Offset = vg.Point{X: bars.Offset, Y: 3}
		p.Add(bars, labels)
		if g.name != "" {
			p.Legend.Add(g.name, bars)
		}
	}
	p.Y.Min, p.Y.Max = 0, most*1.4 // room for the legend
	p.X.Min, p.X.Max = -0.6, float64(len(groups[0].values))-0.4
	return nil
}
