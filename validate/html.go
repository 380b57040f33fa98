package validate

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// reportTemplate is report.html: one file, without scripts and without anything
// from elsewhere.
//
//go:embed report.html.tmpl
var reportTemplate string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"num": shortNumber, "size": shortSize, "percent": percent, "anyNum": anyNumber,
}).Parse(reportTemplate))

// WriteHTML writes the report as a page with pictures.
func (r *Report) WriteHTML(w io.Writer) error {
	v := struct {
		*Report
		Distribution, Layers, Tensors, Types, Size, Choices template.HTML
		Worst                                               []TensorResult
	}{Report: r}
	v.Distribution = r.distributionPicture()
	v.Layers = r.layersPicture()
	v.Tensors = r.tensorsPicture()
	v.Types = r.typesPicture()
	v.Size = r.sizePicture()
	v.Choices = r.choicesPicture()
	if r.Weights != nil {
		v.Worst = slices.Clone(r.Weights.Tensors)
		slices.SortStableFunc(v.Worst, func(a, b TensorResult) int {
			switch {
			case a.NMSE > b.NMSE:
				return -1
			case a.NMSE < b.NMSE:
				return 1
			}
			return 0
		})
		v.Worst = v.Worst[:min(12, len(v.Worst))]
	}
	if err := page.Execute(w, v); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// A drawing is an SVG picture of fixed width whose colours are the page's.
type drawing struct {
	strings.Builder
	width, height float64
}

const (
	plotWidth  = 640.0
	plotLeft   = 64.0
	plotBottom = 34.0
	plotTop    = 12.0
)

func newDrawing(height float64, title string) *drawing {
	d := &drawing{width: plotWidth, height: height}
	fmt.Fprintf(d, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, d.width, d.height, template.HTMLEscapeString(title))
	return d
}

func (d *drawing) html() template.HTML {
	return template.HTML(d.String() + "</svg>")
}

func (d *drawing) rect(class string, x, y, w, h float64, title string) {
	fmt.Fprintf(d, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, class, x, y, max(0, w), max(0, h), template.HTMLEscapeString(title))
}

func (d *drawing) dot(class string, x, y float64, title string) {
	fmt.Fprintf(d, `<circle class="%s" cx="%.1f" cy="%.1f" r="2.6"><title>%s</title></circle>`, class, x, y, template.HTMLEscapeString(title))
}

func (d *drawing) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(d, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, class, x1, y1, x2, y2)
}

func (d *drawing) text(anchor string, x, y float64, s string) {
	fmt.Fprintf(d, `<text text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, anchor, x, y, template.HTMLEscapeString(s))
}

// scale maps values to heights, by their logarithm where log is set.
type scale struct {
	low, high float64
	log       bool
	height    float64
}

func (s scale) y(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(max(v, s.low))
	}
	return plotTop + (1-(v-low)/(high-low))*(s.height-plotTop-plotBottom)
}

// axis draws a few horizontal lines with their values.
func (d *drawing) axis(s scale, format func(float64) string) {
	var at []float64
	if s.log {
		first, last := math.Floor(math.Log10(s.low)), math.Ceil(math.Log10(s.high))
		step := max(1, math.Ceil((last-first)/5))
		for e := first; e <= last; e += step {
			at = append(at, math.Pow(10, e))
		}
	} else {
		for i := range 5 {
			at = append(at, s.low+(s.high-s.low)*float64(i)/4)
		}
	}
	for _, v := range at {
		if y := s.y(v); v >= s.low && y >= plotTop-1 {
			d.line("grid", plotLeft, y, d.width-8, y)
			d.text("end", plotLeft-6, y+4, format(v))
		}
	}
}

// logScale spans the decades of positive values.
func logScale(values []float64, height float64) (scale, bool) {
	low, high := math.Inf(1), 0.0
	for _, v := range values {
		if v > 0 {
			low, high = min(low, v), max(high, v)
		}
	}
	if high == 0 {
		return scale{}, false
	}
	low = max(low, high*1e-9)
	return scale{math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high*1.01))), true, height}, true
}

func (r *Report) distributionPicture() template.HTML {
	if len(r.Distribution) == 0 {
		return ""
	}
	total, most := 0, 0
	for _, b := range r.Distribution {
		total, most = total+b.Count, max(most, b.Count)
	}
	d := newDrawing(240, "distribution of the KL divergence")
	s := scale{0, float64(most) / float64(total) * 100, false, d.height}
	d.axis(s, func(v float64) string { return fmt.Sprintf("%.0f %%", v) })
	step := (d.width - plotLeft - 8) / float64(len(r.Distribution))
	for i, b := range r.Distribution {
		share := 100 * float64(b.Count) / float64(total)
		x, y := plotLeft+float64(i)*step, s.y(share)
		d.rect("bar", x+2, y, step-4, s.y(0)-y, fmt.Sprintf("%s to %s nats: %d predictions (%.1f %%)", shortNumber(b.From), shortNumber(b.To), b.Count, share))
		d.text("middle", x, d.height-16, shortNumber(b.From))
	}
	d.text("end", d.width-8, d.height-5, "KL divergence of a prediction, nats")
	return d.html()
}

func (r *Report) layersPicture() template.HTML {
	s, ok := logScale(r.Layers, 220)
	if !ok {
		return ""
	}
	d := newDrawing(220, "error after each layer")
	d.axis(s, exponent)
	step := (d.width - plotLeft - 8) / float64(len(r.Layers))
	for i, v := range r.Layers {
		x, y := plotLeft+float64(i)*step, s.y(v)
		d.rect("bar", x+1, y, step-2, d.height-plotBottom-y, fmt.Sprintf("layer %d: %s", i, shortNumber(v)))
		if every := max(1, len(r.Layers)/12); i%every == 0 {
			d.text("middle", x+step/2, d.height-16, strconv.Itoa(i))
		}
	}
	d.text("end", d.width-8, d.height-5, "layer")
	return d.html()
}

func (r *Report) tensorsPicture() template.HTML {
	if r.Weights == nil || len(r.Weights.Tensors) == 0 {
		return ""
	}
	var values []float64
	layers := 0
	for _, t := range r.Weights.Tensors {
		values = append(values, t.NMSE)
		layers = max(layers, t.Layer+1)
	}
	s, ok := logScale(values, 260)
	if !ok {
		return ""
	}
	d := newDrawing(260, "error of each tensor")
	d.axis(s, exponent)
	step := (d.width - plotLeft - 16) / float64(layers+1)
	for _, t := range r.Weights.Tensors {
		if t.NMSE > 0 {
			d.dot("dot", plotLeft+8+(float64(t.Layer)+1.5)*step, s.y(t.NMSE), fmt.Sprintf("%s, %s: %s", t.Name, t.Type, shortNumber(t.NMSE)))
		}
	}
	d.text("middle", plotLeft+8+step/2, d.height-16, "none")
	for i := 0; i < layers; i += max(1, layers/12) {
		d.text("middle", plotLeft+8+(float64(i)+1.5)*step, d.height-16, strconv.Itoa(i))
	}
	d.text("end", d.width-8, d.height-5, "layer")
	return d.html()
}

func (r *Report) typesPicture() template.HTML {
	types := slices.SortedFunc(maps.Keys(r.Candidate.BytesPerType), func(a, b string) int {
		switch x, y := r.Candidate.BytesPerType[a], r.Candidate.BytesPerType[b]; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return strings.Compare(a, b)
	})
	if len(types) == 0 {
		return ""
	}
	most := float64(r.Candidate.BytesPerType[types[0]])
	d := newDrawing(float64(len(types))*28+8, "bytes per type")
	for i, t := range types {
		n, y := r.Candidate.BytesPerType[t], float64(i)*28+4
		d.text("end", plotLeft+20, y+15, t)
		w := (d.width - plotLeft - 150) * float64(n) / most
		d.rect("bar", plotLeft+28, y, w, 20, fmt.Sprintf("%s: %d bytes", t, n))
		d.text("start", plotLeft+36+w, y+15, fmt.Sprintf("%s, %s", shortSize(n), percent(float64(n)/float64(max(1, r.Candidate.TensorBytes)))))
	}
	return d.html()
}

// sizePicture sets the measured KLD against the ceiling over bits per weight.
func (r *Report) sizePicture() template.HTML {
	if r.KLD == nil || r.Candidate.BlockBits == 0 {
		return ""
	}
	const low, high = 2.0, 10.0
	values := []float64{Ceiling(low), Ceiling(high), max(r.KLD.Mean, 1e-7)}
	if r.Stock != nil {
		values = append(values, r.Stock.KLD.Mean)
	}
	s, _ := logScale(values, 240)
	d := newDrawing(240, "KL divergence against the ceiling")
	d.axis(s, exponent)
	x := func(bits float64) float64 {
		return plotLeft + (min(max(bits, low), high)-low)/(high-low)*(d.width-plotLeft-24)
	}
	var points []string
	for bits := low; bits <= high; bits += 0.25 {
		points = append(points, fmt.Sprintf("%.1f,%.1f", x(bits), s.y(Ceiling(bits))))
	}
	fmt.Fprintf(d, `<polyline class="limit" points="%s"><title>ceiling where no limit is asked for</title></polyline>`, strings.Join(points, " "))
	for bits := low; bits <= high; bits++ {
		d.text("middle", x(bits), d.height-16, strconv.Itoa(int(bits)))
	}
	for _, g := range r.Gates {
		if limit, ok := g.Limit.(float64); ok && g.Name == "kld.mean" && limit > 0 {
			d.line("limit dash", plotLeft, s.y(limit), d.width-8, s.y(limit))
		}
	}
	if r.Stock != nil {
		d.dot("other", x(r.Candidate.BlockBits), s.y(r.Stock.KLD.Mean), fmt.Sprintf("%s: %s", r.Stock.Preset, shortNumber(r.Stock.KLD.Mean)))
	}
	class := "good"
	if !r.Pass {
		class = "bad"
	}
	d.dot(class, x(r.Candidate.BlockBits), s.y(max(r.KLD.Mean, s.low)), fmt.Sprintf("this file: %s at %.2f bits", shortNumber(r.KLD.Mean), r.Candidate.BlockBits))
	d.text("end", d.width-8, d.height-5, "bits per quantized weight")
	return d.html()
}

// choicesPicture sets the file's bytes and divergence beside those of stock
// presets and of fits that were measured on the same text.
func (r *Report) choicesPicture() template.HTML {
	if r.KLD == nil || r.Stock == nil && len(r.Alternatives) == 0 {
		return ""
	}
	type point struct {
		class, name string
		size        int64
		kld         float64
	}
	var points []point
	for _, a := range r.Alternatives {
		class := "other"
		if a.Kind != AlternativePreset {
			class = "fit"
		}
		points = append(points, point{class, a.Name, a.Size, a.KLD})
	}
	if s := r.Stock; s != nil && !slices.ContainsFunc(points, func(p point) bool { return p.name == s.Preset }) {
		points = append(points, point{"other", s.Preset, s.Size, s.KLD.Mean})
	}
	class := "good"
	if !r.Pass {
		class = "bad"
	}
	points = append(points, point{class, "this file", r.Candidate.Size, r.KLD.Mean})
	var values []float64
	low, high := math.Inf(1), 0.0
	for _, p := range points {
		values = append(values, p.kld)
		low, high = min(low, float64(p.size)), max(high, float64(p.size))
	}
	s, ok := logScale(values, 260)
	if !ok {
		return ""
	}
	margin := max(0.1*(high-low), 0.02*high)
	low, high = max(0, low-margin), high+margin
	d := newDrawing(s.height, "bytes against KL divergence")
	d.axis(s, exponent)
	x := func(size float64) float64 { return plotLeft + (size-low)/(high-low)*(d.width-plotLeft-24) }
	for i := range 5 {
		size := low + (high-low)*float64(i)/4
		d.line("grid", x(size), plotTop, x(size), d.height-plotBottom)
		d.text("middle", x(size), d.height-16, shortSize(int64(size)))
	}
	for _, p := range points {
		at, y := x(float64(p.size)), s.y(max(p.kld, s.low))
		d.dot(p.class, at, y, fmt.Sprintf("%s: %s nats in %d bytes", p.name, shortNumber(p.kld), p.size))
		switch { // fits lie near each other
		case p.class != "other":
		case at < d.width/2:
			d.text("start", at+9, y+4, p.name)
		default:
			d.text("end", at-9, y+4, p.name)
		}
	}
	d.text("end", d.width-8, d.height-3, "size of the file")
	return d.html()
}

func exponent(v float64) string { return fmt.Sprintf("%.0e", v) }

// shortNumber writes a number with three figures.
func shortNumber(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }

// anyNumber writes a gate's limit or value.
func anyNumber(v any) string {
	switch v := v.(type) {
	case float64:
		return shortNumber(v)
	case bool:
		if v {
			return "yes"
		}
		return "no"
	}
	return fmt.Sprint(v)
}

// shortSize writes a number of bytes as people read it.
func shortSize(n int64) string {
	v := float64(n)
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if v < 1000 {
			return fmt.Sprintf("%.4g %s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.4g TB", v)
}
