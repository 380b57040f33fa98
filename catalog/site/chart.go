package site

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// Pictures are drawn by classes that the style sheet colours, without style
// attributes, which the pages' policy forbids. Their numbers are in the table
// of variants too.

// svg collects the text of a picture.
type svg struct{ strings.Builder }

// element adds an element; attributes come in pairs, their values are escaped.
func (s *svg) element(name, text string, attributes ...any) {
	s.WriteString("<" + name)
	for i := 0; i+1 < len(attributes); i += 2 {
		v := attributes[i+1]
		if f, ok := v.(float64); ok {
			v = strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64)
		}
		fmt.Fprintf(s, ` %s="%s"`, attributes[i], template.HTMLEscapeString(fmt.Sprint(v)))
	}
	s.WriteString(">" + template.HTMLEscapeString(text) + "</" + name + ">")
}

func (s *svg) picture(label string, width, height int) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">%s</svg>`,
		width, height, template.HTMLEscapeString(label), s.String()))
}

// charts are the pictures of the variants that are served and were measured.
func charts(p *page) []chart {
	var measured []variantView
	for _, v := range p.Variants {
		if v.Quality != nil && (v.Served || len(p.Model.Active()) == 0) {
			measured = append(measured, v)
		}
	}
	var out []chart
	if c, ok := divergenceChart(measured); ok {
		out = append(out, c)
	}
	if c, ok := top1Chart(measured); ok {
		out = append(out, c)
	}
	if c, ok := perplexityChart(measured); ok {
		out = append(out, c)
	}
	return out
}

// label names a variant in a picture, with its release where several have one
// of that name.
func label(v variantView, all []variantView) string {
	for _, other := range all {
		if other.ID != v.ID && other.Name == v.Name && len(v.Release) > 0 {
			return v.Name + " r" + strconv.FormatInt(v.Release[0], 10)
		}
	}
	return v.Name
}

// divergenceChart sets the divergence of variants against their sizes: further
// down is closer to the original, further left is smaller.
func divergenceChart(all []variantView) (chart, bool) {
	const width, height, left, right, top, bottom = 640, 340, 88, 24, 20, 50
	var points []variantView
	smallest, largest := math.Inf(1), 0.0
	least, most := math.Inf(1), 0.0
	for _, v := range all {
		if v.Quality.KLD == nil {
			continue
		}
		points = append(points, v)
		smallest, largest = min(smallest, float64(v.Size)), max(largest, float64(v.Size))
		kld := max(v.Quality.KLD.Mean, 1e-6)
		least, most = min(least, kld), max(most, kld)
	}
	if len(points) == 0 {
		return chart{}, false
	}
	low, high := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
	if high <= low {
		high = low + 1
	}
	gap := max((largest-smallest)*0.18, largest*0.08)
	from, to := max(0, smallest-gap), largest+gap
	x := func(size float64) float64 { return left + (size-from)/(to-from)*(width-left-right) }
	y := func(kld float64) float64 {
		return height - bottom - (math.Log10(max(kld, 1e-6))-low)/(high-low)*(height-top-bottom)
	}
	var s svg
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		s.element("line", "", "class", "grid", "x1", left, "x2", width-right, "y1", y(v), "y2", y(v))
		s.element("text", strconv.FormatFloat(v, 'g', -1, 64), "class", "tick", "x", left-10, "y", y(v)+4, "text-anchor", "end")
	}
	step := niceStep((to - from) / 5)
	for size := math.Ceil(from/step) * step; size <= to; size += step {
		s.element("line", "", "class", "grid", "x1", x(size), "x2", x(size), "y1", top, "y2", height-bottom)
		s.element("text", bytesText(int64(size)), "class", "tick", "x", x(size), "y", height-bottom+20, "text-anchor", "middle")
	}
	s.element("text", "size of the files", "class", "axis", "x", (left+width-right)/2, "y", height-8, "text-anchor", "middle")
	s.element("text", "mean KLD, nats per token", "class", "axis", "x", -(top+height-bottom)/2, "y", 16, "text-anchor", "middle", "transform", "rotate(-90)")
	// Labels that would cover one another are left out; hovering names the point.
	type box struct{ x, y float64 }
	var drawn []box
	for _, v := range points {
		kld := v.Quality.KLD.Mean
		px, py := x(float64(v.Size)), y(kld)
		name := label(v, points)
		s.WriteString("<g>")
		s.element("circle", "", "class", "dot", "cx", px, "cy", py, "r", 7)
		s.element("title", fmt.Sprintf("%s: %s, mean KLD %s", name, bytesText(v.Size), numberText(kld)))
		s.WriteString("</g>")
		free := true
		for _, b := range drawn {
			free = free && (math.Abs(b.x-px) > 90 || math.Abs(b.y-py) > 16)
		}
		if !free {
			continue
		}
		drawn = append(drawn, box{px, py})
		anchor, dx := "start", 12.0
		if px > width-right-110 {
			anchor, dx = "end", -12.0
		}
		s.element("text", v.Name, "class", "label", "x", px+dx, "y", py-8, "text-anchor", anchor)
	}
	return chart{
		"Divergence against size", "Kullback-Leibler divergence from the original model, on a logarithmic scale. Lower is closer, further left is smaller.",
		s.picture("Mean Kullback-Leibler divergence of each variant against its size; the numbers are in the table of variants", width, height),
	}, true
}

// niceStep is the least of 1, 2 and 5 times a power of ten that is not below
// x.
func niceStep(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= x {
			return m * power
		}
	}
	return 10 * power
}

// bar is a row of a bar chart.
type bar struct {
	name, value string
	share       float64 // of the width
}

// bars draws horizontal bars.
func bars(all []bar, aria string) template.HTML {
	const width, left, right, step = 520, 104, 84, 34
	var s svg
	for i, b := range all {
		y := 8 + step*i
		s.element("text", b.name, "class", "label", "x", left-12, "y", y+19, "text-anchor", "end")
		s.element("rect", "", "class", "track", "x", left, "y", y+4, "width", width-left-right, "height", 20, "rx", 5)
		s.element("rect", "", "class", "bar", "x", left, "y", y+4, "width", max(3, b.share*(width-left-right)), "height", 20, "rx", 5)
		s.element("text", b.value, "class", "value", "x", width-right+12, "y", y+19)
	}
	return s.picture(aria, width, 8+step*len(all))
}

// top1Chart shows how often a variant puts the same token first, on a scale
// that begins below the worst of them.
func top1Chart(all []variantView) (chart, bool) {
	worst := 1.0
	for _, v := range all {
		if v.Quality.Top1 != nil {
			worst = min(worst, *v.Quality.Top1)
		}
	}
	floor := math.Max(0, math.Floor(worst*20-0.5)/20) // a multiple of 5 %
	var rows []bar
	for _, v := range all {
		if q := v.Quality.Top1; q != nil {
			rows = append(rows, bar{name: label(v, all), value: percentText(*q), share: (*q - floor) / (1 - floor)})
		}
	}
	if len(rows) == 0 {
		return chart{}, false
	}
	return chart{
		"Same first token", fmt.Sprintf("Share of the positions where the variant and the original put the same token first. Bars begin at %.0f %%.", 100*floor),
		bars(rows, "Share of equal first tokens of each variant; the numbers are in the table of variants"),
	}, true
}

// perplexityChart shows by how much perplexity differs from the original's.
func perplexityChart(all []variantView) (chart, bool) {
	most := 0.0
	var rows []bar
	var reference float64
	for _, v := range all {
		if q := v.Quality.PPL; q != nil && q.Reference > 0 {
			rise := q.Candidate/q.Reference - 1
			most, reference = max(most, math.Abs(rise)), q.Reference
			sign := "+"
			if rise < 0 {
				sign = "−"
			}
			rows = append(rows, bar{name: label(v, all), value: sign + percentText(math.Abs(rise)), share: math.Abs(rise)})
		}
	}
	if len(rows) == 0 {
		return chart{}, false
	}
	for i := range rows {
		if most > 0 {
			rows[i].share /= most
		}
	}
	return chart{
		"Rise of perplexity", fmt.Sprintf("Perplexity relative to the original's %s on the same text. Shorter is better.", numberText(reference)),
		bars(rows, "Rise of perplexity of each variant; the numbers are in the table of variants"),
	}, true
}
