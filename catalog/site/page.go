package site

import (
	"html/template"
	"slices"
	"strconv"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// page is what model.html shows.
type page struct {
	Channel  string
	Model    *catalog.Model
	Options  Options
	Default  *catalog.Variant // nil where no release is active
	Costs    *Costs
	Targets  []*Target
	Variants []variantView
	Releases []releaseView
	Charts   []chart
	Slots    []slot
}

// variantView is a variant with what the page says about it.
type variantView struct {
	*catalog.Variant
	Release []int64 // versions that have it, newest first
	Served  bool
	Memory  int64 // bytes with the context that it is served with
	Links   []link
}

type link struct{ Kind, Text, URL string }

// releaseView is a release with its variants.
type releaseView struct {
	catalog.Release
	Variants []*catalog.Variant
}

// slot is the share of an active release, for the picture of the traffic.
type slot struct {
	Slot     string
	Version  int64
	Weight   int64
	X, Width string // in a picture 1000 wide
}

func newPage(channel string, m *catalog.Model, o Options) (*page, error) {
	p := &page{Channel: channel, Model: m, Options: o, Default: m.Default()}
	var err error
	if p.Costs, err = costsOf(m); err != nil {
		return nil, err
	}
	if p.Default != nil {
		for _, target := range targets {
			if t := target(p); t != nil {
				p.Targets = append(p.Targets, t)
			}
		}
	}
	active := map[string]bool{}
	for _, r := range m.Active() {
		for _, id := range r.Variants {
			active[id] = true
		}
	}
	for i := range m.Variants {
		v := variantView{Variant: &m.Variants[i], Served: active[m.Variants[i].ID]}
		for _, r := range m.Releases {
			if slices.Contains(r.Variants, v.ID) {
				v.Release = append(v.Release, r.Version)
			}
		}
		v.Memory = v.Variant.Memory.Bytes(m.Serving.ContextTokens)
		for _, l := range v.Locations {
			v.Links = append(v.Links, linkOf(l, v.Files[0]))
		}
		p.Variants = append(p.Variants, v)
	}
	slices.SortStableFunc(p.Variants, func(a, b variantView) int {
		if a.Served != b.Served {
			if a.Served {
				return -1
			}
			return 1
		}
		return 0
	})
	for _, r := range m.Releases {
		v := releaseView{Release: r}
		for _, id := range r.Variants {
			if variant, ok := m.Variant(id); ok {
				v.Variants = append(v.Variants, variant)
			}
		}
		p.Releases = append(p.Releases, v)
	}
	var x int64
	for _, r := range m.Active() {
		if r.Weight > 0 {
			p.Slots = append(p.Slots, slot{r.Slot, r.Version, r.Weight, strconv.FormatInt(10*x, 10), strconv.FormatInt(10*r.Weight, 10)})
			x += r.Weight
		}
	}
	p.Charts = charts(p)
	return p, nil
}

// linkOf is where a file can be had; only addresses of the web are links.
func linkOf(l catalog.Location, f catalog.File) link {
	out := link{Kind: l.Kind, Text: l.Address(f)}
	if l.Kind == catalog.KindHTTP {
		out.URL = out.Text
	}
	return out
}

// Title is what the window is named after.
func (p *page) Title() string { return p.Model.DisplayName }

// Languages are the model's languages for people.
func (p *page) Languages() string {
	var names []string
	for _, l := range p.Model.Languages {
		names = append(names, languageText(l))
	}
	return strings.Join(names, ", ")
}

// Rise is by how much perplexity differs from the original's.
func (p *page) Rise(q *catalog.Quality) string {
	if q.PPL == nil || q.PPL.Reference <= 0 {
		return ""
	}
	rise := q.PPL.Candidate/q.PPL.Reference - 1
	if rise < 0 {
		return "−" + percentText(-rise)
	}
	return "+" + percentText(rise)
}

// Source is a link to the checkpoint, where it is on the Hugging Face Hub.
func (p *page) Source(v *catalog.Variant) string {
	s := v.Provenance.Source
	name, ok := strings.CutPrefix(s.Repository, "hf://")
	if !ok {
		return ""
	}
	if s.Commit == "" {
		return "https://huggingface.co/" + urlSafe(name)
	}
	return "https://huggingface.co/" + urlSafe(name) + "/tree/" + s.Commit
}

// chart is a picture with a title; the table of variants has its numbers.
type chart struct {
	Title string
	About string
	SVG   template.HTML
}
