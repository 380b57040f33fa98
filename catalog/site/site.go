// Package site writes a catalog as a web site: a list to search and filter, and
// a page for each model with its figures of quality, its variants, prices,
// history and origin, what to type to run it, and a calculator of costs.
//
// The site is plain files. Pages ask for nothing beyond them: no other host, no
// framework, no web font; their Content-Security-Policy allows one style sheet
// and one script. Without scripts the pages show everything but the search, the
// calculator and the dialog. It can be served by any web server, or opened from
// a disk while the catalog has at most inlineModels models.
//
// Layout of the folder:
//
//	index.html          the list
//	list/N.html         the same list in pages, without scripts
//	models/SLUG.html    a model
//	models/SLUG.json    its entry: the catalog's model, costs and budget alarm
//	index/meta.json     number of models, parts of the index, values to filter by
//	index/N.json        a part of the index: rows, see row
//	site.css, site.js
//
// Text of the catalog is hostile until escaped: pages are html/template,
// scripts set text and never HTML, snippets quote for their own language.
package site

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"iter"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// Options are what a site needs to know beyond the catalog.
type Options struct {
	Title   string // left out: Models
	BaseURL string // of the gateway's OpenAI-compatible API, as in https://gateway.example.com/v1
	Workers int    // pages that are made at once; 0: by the processors
}

// Validate says whether BaseURL is an address that can stand in a shell's
// double quotes as it is.
func (o Options) Validate() error {
	if o.BaseURL == "" {
		return nil
	}
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		strings.ContainsAny(o.BaseURL, "\"'`$\\!<> \t\r\n") {
		return fmt.Errorf("%.100q: want an address as in https://gateway.example.com/v1", o.BaseURL)
	}
	return nil
}

// Stats is what was written.
type Stats struct {
	Models int   `json:"models"`
	Files  int   `json:"files"`
	Bytes  int64 `json:"bytes"`
}

//go:embed assets/site.css assets/site.js assets/*.html
var assets embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"bytes": bytesText, "count": countText, "date": dateText, "number": numberText, "short": shortDigest, "percent": percentText,
	"task": taskText, "join": strings.Join, "tokens": tokensText, "unit": unitText,
	"deref": func(b *bool) bool { return *b },
	"top":   func(root, name, channel string) top { return top{root, name, channel} },
}).ParseFS(assets, "assets/*.html"))

const (
	// inlineModels is how many models a list holds itself, so that it can be
	// searched without a server.
	inlineModels = 500
	// rowsPerPart is the number of models in a part of the index.
	rowsPerPart = 2000
	// cardsPerPage is how many models a list shows at first, and without
	// scripts on each of its pages.
	cardsPerPage = 60
	// marker is the file that says that a folder is a site.
	marker = "index/meta.json"
)

// row is a model in the index, as the script reads it: an array, to be short.
type row struct {
	Slug, Name, Vendor, Task, Text string
	Parameters, Bytes, Context     int64
	License                        string
	PriceIn, PriceOut, Currency    string // for a million tokens
	Flags                          []string
	Updated                        string
	Words                          string // tags and aliases
}

func (r row) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{r.Slug, r.Name, r.Vendor, r.Task, r.Text, r.Parameters, r.Bytes, r.Context, r.License, r.PriceIn, r.PriceOut, r.Currency, r.Flags, r.Updated, r.Words})
}

// meta is the head of the index.
type meta struct {
	Format   string   `json:"format"`
	Channel  string   `json:"channel"`
	Models   int      `json:"models"`
	Parts    []string `json:"parts"`
	Tasks    []string `json:"tasks"`
	Licenses []string `json:"licenses"`
	Currency string   `json:"currency"` // of most prices
	Rows     []row    `json:"rows,omitempty"`
}

// Count is the number of models, for people.
func (m meta) Count() int64 { return int64(m.Models) }

const metaFormat = "modelpipe-site/1"

// Write writes the site of a channel into the folder dir, which must be empty,
// not there, or a site already. The new site takes the place of the old one
// when it is whole; after an error nothing has changed. Models come one at a
// time in any order; what is kept of each is its row in the index.
func Write(ctx context.Context, dir, channel string, models iter.Seq2[*catalog.Model, error], o Options) (_ Stats, err error) {
	if err := o.Validate(); err != nil {
		return Stats{}, err
	}
	o.Title = cmp.Or(o.Title, "Models")
	if o.Workers < 1 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return Stats{}, err
	}
	if err := mayReplace(dir); err != nil {
		return Stats{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return Stats{}, err
	}
	stage, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".partial-")
	if err != nil {
		return Stats{}, err
	}
	defer os.RemoveAll(stage)
	if err := os.Chmod(stage, 0o755); err != nil {
		return Stats{}, err
	}
	w := &writer{dir: stage, channel: channel, options: o}
	if err := w.site(ctx, models); err != nil {
		return Stats{}, fmt.Errorf("site %s: %w", dir, err)
	}
	return w.stats, replaceFolder(dir, stage)
}

// mayReplace says whether a folder is free or a site.
func mayReplace(dir string) error {
	list, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(list) == 0:
		return nil
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(marker)))
	var head struct {
		Format string `json:"format"`
	}
	if err != nil || json.Unmarshal(data, &head) != nil || head.Format != metaFormat {
		return fmt.Errorf("site %s: the folder holds something else than a site", dir)
	}
	return nil
}

// replaceFolder puts stage in the place of dir.
func replaceFolder(dir, stage string) error {
	old := stage + ".old"
	err := os.Rename(dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(stage, dir); err != nil {
		os.Rename(old, dir)
		return err
	}
	return os.RemoveAll(old)
}

// writer makes the files of a site.
type writer struct {
	dir     string
	channel string
	options Options

	mu    sync.Mutex
	rows  []row
	stats Stats
}

func (w *writer) file(name string, data []byte) error {
	if err := os.WriteFile(filepath.Join(w.dir, filepath.FromSlash(name)), data, 0o644); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Files++
	w.stats.Bytes += int64(len(data))
	return nil
}

func (w *writer) page(name, template string, data any) error {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, template, data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.file(name, b.Bytes())
}

func (w *writer) json(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.file(name, append(data, '\n'))
}

func (w *writer) site(ctx context.Context, models iter.Seq2[*catalog.Model, error]) error {
	for _, d := range []string{"models", "index", "list"} {
		if err := os.Mkdir(filepath.Join(w.dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"site.css", "site.js"} {
		data, err := assets.ReadFile("assets/" + name)
		if err != nil {
			return err
		}
		if err := w.file(name, data); err != nil {
			return err
		}
	}
	if err := w.models(ctx, models); err != nil {
		return err
	}
	slices.SortFunc(w.rows, func(a, b row) int { return strings.Compare(a.Slug, b.Slug) })
	for i := 1; i < len(w.rows); i++ {
		if w.rows[i].Slug == w.rows[i-1].Slug {
			return fmt.Errorf("model %s is there twice", w.rows[i].Slug)
		}
	}
	w.stats.Models = len(w.rows)
	m := w.head()
	for i, part := range chunks(w.rows, rowsPerPart) {
		name := fmt.Sprintf("index/%d.json", i)
		if err := w.json(name, part); err != nil {
			return err
		}
		m.Parts = append(m.Parts, name)
	}
	if err := w.json(marker, m); err != nil {
		return err
	}
	return w.lists(m)
}

// models makes the pages of models.
func (w *writer) models(ctx context.Context, models iter.Seq2[*catalog.Model, error]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *catalog.Model)
	var group sync.WaitGroup
	for range w.options.Workers {
		group.Go(func() {
			for m := range next {
				if err := w.model(m); err != nil {
					cancel(fmt.Errorf("model %s: %w", m.Slug, err))
				}
			}
		})
	}
	var failed error
feed:
	for m, err := range models {
		if err != nil {
			failed = err
			break
		}
		select {
		case next <- m:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	if failed != nil {
		return failed
	}
	return context.Cause(ctx)
}

func (w *writer) model(m *catalog.Model) error {
	p, err := newPage(w.channel, m, w.options)
	if err != nil {
		return err
	}
	if err := w.page("models/"+m.Slug+".html", "model.html", p); err != nil {
		return err
	}
	if err := w.json("models/"+m.Slug+".json", struct {
		Model *catalog.Model `json:"model"`
		Costs *Costs         `json:"costs,omitempty"`
	}{m, p.Costs}); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows = append(w.rows, rowOf(m))
	return nil
}

// head collects what the list can be filtered by.
func (w *writer) head() meta {
	m := meta{Format: metaFormat, Channel: w.channel, Models: len(w.rows), Parts: []string{}}
	tasks, licenses, currencies := map[string]int{}, map[string]int{}, map[string]int{}
	for _, r := range w.rows {
		tasks[r.Task]++
		licenses[r.License]++
		if r.Currency != "" {
			currencies[r.Currency]++
		}
	}
	m.Tasks, m.Licenses = slices.Sorted(maps.Keys(tasks)), slices.Sorted(maps.Keys(licenses))
	for _, c := range slices.Sorted(maps.Keys(currencies)) {
		if currencies[c] > currencies[m.Currency] {
			m.Currency = c
		}
	}
	if len(w.rows) <= inlineModels {
		m.Rows = w.rows
	}
	return m
}

// top is the head of a page.
type top struct{ Root, Name, Channel string }

// list is what list.html shows.
type list struct {
	Title    string
	Channel  string
	Root     string // of the site, from the page
	Meta     meta
	Cards    []row
	Page     int
	Pages    int
	Searches bool // has the search
}

func (w *writer) lists(m meta) error {
	pages := chunks(w.rows, cardsPerPage)
	if len(pages) == 0 {
		pages = [][]row{nil}
	}
	l := list{Title: w.options.Title, Channel: w.channel, Meta: m, Cards: pages[0], Page: 1, Pages: len(pages), Searches: true}
	if err := w.page("index.html", "list.html", l); err != nil {
		return err
	}
	l.Root, l.Searches, l.Meta.Rows = "../", false, nil
	for i, cards := range pages {
		l.Cards, l.Page = cards, i+1
		if err := w.page(fmt.Sprintf("list/%d.html", i+1), "list.html", l); err != nil {
			return err
		}
	}
	return nil
}

func chunks(rows []row, size int) [][]row { return slices.Collect(slices.Chunk(rows, size)) }

// Previous and Next are pages of a list, 0 where there is none.
func (l list) Previous() int { return l.Page - 1 }
func (l list) Next() int {
	if l.Page < l.Pages {
		return l.Page + 1
	}
	return 0
}

// rowOf is a model's row in the index.
func rowOf(m *catalog.Model) row {
	r := row{
		Slug: m.Slug, Name: m.DisplayName, Vendor: m.Vendor, Task: string(m.Task), Text: excerpt(m.Description, 180),
		Parameters: m.Parameters.Total, Context: m.Serving.ContextTokens, License: m.License.SPDX, Flags: []string{},
		Updated: m.Updated.UTC().Format(time.DateOnly), Words: strings.Join(append(slices.Clone(m.Tags), m.Aliases...), " "),
	}
	if v := m.Default(); v != nil {
		r.Bytes = v.Size
	}
	for _, unit := range []struct {
		name string
		to   *string
	}{{catalog.UnitInputToken, &r.PriceIn}, {catalog.UnitOutputToken, &r.PriceOut}} {
		if p, ok := m.Serving.Price(unit.name, catalog.TierStandard); ok {
			if each, err := p.PerUnit(); err == nil {
				*unit.to, r.Currency = Money(each.Mul(each, big.NewRat(1_000_000, 1))), p.Currency
			}
		}
	}
	c := m.Capabilities
	for _, f := range []struct {
		name string
		on   bool
	}{{"tools", c.Tools}, {"reasoning", c.Reasoning}, {"vision", c.Vision}, {"streaming", c.Streaming}, {"structured", c.StructuredOutput}, {"gated", m.License.Gating != "none"}, {"deprecated", m.Deprecated != nil}, {"withdrawn", m.Default() == nil}} {
		if f.on {
			r.Flags = append(r.Flags, f.name)
		}
	}
	return r
}

// excerpt cuts a text between words.
func excerpt(s string, most int) string {
	s = strings.Join(strings.Fields(s), " ")
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	s = string(runes[:most])
	if i := strings.LastIndexByte(s, ' '); i > most/2 {
		s = s[:i]
	}
	return s + "…"
}
