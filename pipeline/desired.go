package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/ops/budget"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/tokenizer"
	"github.com/modelpipe/modelpipe/validate"
)

// This file says what should be: the curation file, with the files that it
// names, and what its sources hold now.

// imatrixAuto in a curation file asks for a matrix that the refresh measures.
const imatrixAuto = "auto"

// lossesAuto are losses that the refresh measures with such a matrix.
const lossesAuto = "auto"

// maxGiven bounds a file that a curation file names.
const maxGiven = 1 << 30

// desired is what a curation file asks for. Everything that it names is read
// once, so that a run works on one state of it.
type desired struct {
	file     string
	curation *catalog.Curation
	models   []*wantedModel // of --only, where that is given
}

// wantedModel is a model that is asked for, with what its source holds.
type wantedModel struct {
	*catalog.Curated
	folder   string // path, where the source is one
	variants []wantedVariant

	upstream upstream
}

// wantedVariant is a variant that is asked for.
type wantedVariant struct {
	catalog.Wanted
	recipe       string // text of a recipe file, or empty
	recipeDigest catalog.Digest
	imatrix      string // digest of the file, auto, or empty
	losses       string // of a fit, likewise
	gates        Gates
}

// upstream is what a source holds now.
type upstream struct {
	source  *Source // open; nil where it was not looked at or could not be
	commit  string
	bytes   int64           // of the files
	license catalog.License // of the model card; empty where it names none
	err     error
}

// given is a file that somebody gave.
type given struct {
	data   []byte
	digest string
}

// readGiven reads a file that is not larger than it may be.
func readGiven(name string, limit int64) (given, error) {
	f, err := os.Open(name)
	if err != nil {
		return given{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return given{}, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return given{}, fmt.Errorf("%s: has more than %d bytes", name, limit)
	}
	return given{data, digestText(data)}, nil
}

// readDesired reads a curation file and what it names. Its errors are those of
// people who wrote it.
func (r *Refresher) readDesired() (*desired, error) {
	c, err := ReadCuration(r.Curation)
	if err != nil {
		return nil, err
	}
	d := &desired{file: r.Curation, curation: c}
	r.given, r.asked = map[string]bool{}, map[string]bool{}
	for i := range c.Models {
		r.asked[c.Models[i].Slug] = true
	}
	r.gates = Gates{Chunks: r.Chunks, Ctx: r.Ctx}
	for _, text := range []struct {
		what, name string
		to         *string
	}{{"text to validate on", r.Text, &r.gates.Text}, {"canaries", r.Canaries, &r.gates.Canaries}, {"text to calibrate on", r.Calibrate, &r.calibrationText}} {
		if text.name == "" {
			continue
		}
		g, err := r.give(text.name, ".txt", tokenizer.MaxText)
		if err == nil && text.to == &r.gates.Canaries {
			_, err = validate.ParseCanaries(string(g.data))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text.what, err)
		}
		*text.to = g.digest
	}
	for _, slug := range r.Only {
		if !slices.ContainsFunc(c.Models, func(m catalog.Curated) bool { return m.Slug == slug }) {
			return nil, fmt.Errorf("%s: has no model %s", r.Curation, slug)
		}
	}
	for i := range c.Models {
		m := &c.Models[i]
		if len(r.Only) > 0 && !slices.Contains(r.Only, m.Slug) {
			continue
		}
		w, err := r.wanted(m)
		if err != nil {
			return nil, fmt.Errorf("%s: model %s: %w", r.Curation, m.Slug, err)
		}
		d.models = append(d.models, w)
	}
	return d, nil
}

// ReadCuration reads the curation file at a path.
func ReadCuration(name string) (*catalog.Curation, error) {
	dir, base := filepath.Split(name)
	if dir == "" {
		dir = "."
	}
	return catalog.ReadCuration(os.DirFS(dir), base)
}

// edited says what has become of the curation file since it was read, or
// nothing.
func (d *desired) edited() string {
	now, err := ReadCuration(d.file)
	switch {
	case err != nil:
		return fmt.Sprintf("%s has changed while this run worked, and cannot be read now: %s", d.file, oneLine(err))
	case !reflect.DeepEqual(now, d.curation):
		return fmt.Sprintf("%s has changed while this run worked: the next run takes it up", d.file)
	}
	return ""
}

// beside is a path of the curation file, relative to the folder that it is in.
func (r *Refresher) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(r.Curation), filepath.FromSlash(name))
}

// give reads a file that somebody gave and keeps it in the work directory under
// its digest.
func (r *Refresher) give(name, suffix string, limit int64) (given, error) {
	g, err := readGiven(name, limit)
	if err != nil || r.DryRun {
		return g, err
	}
	r.given[givenName(g.digest, suffix)] = true
	to := filepath.Join(r.Work, givenName(g.digest, suffix))
	if info, err := os.Stat(to); err == nil && info.Size() == int64(len(g.data)) {
		return g, nil
	}
	if err := writeFile(to, g.data); err != nil {
		return g, classed{fmt.Errorf("work directory: %w", err), errWork}
	}
	return g, nil
}

// wanted reads what the entry of a model names.
func (r *Refresher) wanted(m *catalog.Curated) (*wantedModel, error) {
	w := &wantedModel{Curated: m}
	if hub.IsRef(m.Source) {
		ref, err := hub.ParseRef(m.Source)
		switch {
		case err != nil:
			return nil, err
		case ref.Revision != "":
			return nil, fmt.Errorf("source %s: say the revision with the key revision", m.Source)
		}
		if _, err := hub.ParseRef(m.Source + "@" + m.Revision); err != nil {
			return nil, fmt.Errorf("revision: %w", err)
		}
	} else {
		if strings.Contains(m.Source, "://") {
			return nil, fmt.Errorf("source %s: want hf://org/name or the path of a folder", m.Source)
		}
		path, err := filepath.Abs(r.beside(m.Source))
		if err != nil {
			return nil, err
		}
		w.folder = path
	}
	for _, v := range m.Variants {
		x, err := r.wantedVariant(v)
		if err != nil {
			return nil, fmt.Errorf("variant %s: %w", v.Name, err)
		}
		w.variants = append(w.variants, x)
	}
	return w, nil
}

// wantedVariant reads what a variant names.
func (r *Refresher) wantedVariant(v catalog.Wanted) (wantedVariant, error) {
	w := wantedVariant{Wanted: v, gates: r.gates}
	w.gates.MaxKLD, w.gates.MinTop1, w.gates.MaxPPL = v.MaxKLD, v.MinTop1, v.MaxPPL
	var err error
	if v.MaxSize != "" {
		if w.gates.MaxSize, err = ParseSize(v.MaxSize); err != nil {
			return w, fmt.Errorf("max_size %s: %w", v.MaxSize, err)
		}
	}
	if v.Recipe != "" {
		const most = 1 << 20
		g, err := readGiven(r.beside(v.Recipe), most)
		if err != nil {
			return w, fmt.Errorf("recipe: %w", err)
		}
		w.recipe = string(g.data)
	}
	recipe, err := parseRecipe(v.Type, w.recipe)
	if err == nil && !isFit(v.Type) {
		err = checkType(recipe)
	}
	switch {
	case err != nil && v.Recipe != "":
		return w, fmt.Errorf("recipe %s: %w", v.Recipe, err)
	case err != nil:
		return w, fmt.Errorf("%w, or fit", err)
	}
	digest, err := recipe.Digest()
	if err != nil {
		return w, err
	}
	w.recipeDigest = catalog.Digest(digest)
	switch v.Imatrix {
	case "":
	case imatrixAuto:
		if r.Calibrate == "" {
			return w, errors.New("imatrix = \"auto\": want the text to measure it on, with --calibrate FILE")
		}
		w.imatrix = imatrixAuto
		if isFit(v.Type) {
			w.losses = lossesAuto
		}
	default:
		g, err := r.give(r.beside(v.Imatrix), ".gguf", maxGiven)
		if err != nil {
			return w, fmt.Errorf("imatrix: %w", err)
		}
		w.imatrix = g.digest
		if isFit(v.Type) {
			if w.losses, err = r.lossesBeside(r.beside(v.Imatrix)); err != nil {
				return w, fmt.Errorf("losses: %w", err)
			}
		}
	}
	return w, nil
}

// lossesBeside is the digest of the losses beside an importance matrix, empty
// where there are none.
func (r *Refresher) lossesBeside(imatrix string) (string, error) {
	name := imatrix + LossesSuffix
	if _, err := budget.ReadFile(name); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	g, err := r.give(name, LossesSuffix, maxGiven)
	return g.digest, err
}

// checkType refuses a type that nothing is called.
func checkType(r quantize.Recipe) error {
	if r.Preset == "" || strings.EqualFold(r.Preset, "auto") {
		return nil
	}
	if _, ok := quantize.LookupPreset(r.Preset); ok {
		return nil
	}
	if _, err := gguf.ParseType(r.Preset); err != nil {
		return fmt.Errorf("type %s: want auto, a tensor type or one of %s", r.Preset, strings.Join(quantize.PresetNames(), ", "))
	}
	return nil
}

// ParseSize reads a number of bytes as llama.cpp's tools write it: 500M, 5G,
// also 5GB and 5GiB; 0 for an empty string.
func ParseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	units := map[string]float64{"": 1, "B": 1, "K": 1e3, "KB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9, "GB": 1e9, "T": 1e12, "TB": 1e12,
		"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		i = len(s)
	}
	unit, ok := units[strings.ToUpper(strings.TrimSpace(s[i:]))]
	n, err := strconv.ParseFloat(s[:i], 64)
	if !ok || err != nil || n*unit < 1 || n*unit > 1<<62 {
		return 0, errors.New("want a size as in 500M, 5G or 2GiB")
	}
	return int64(n * unit), nil
}

// lookers is how many sources are looked at at once.
const lookers = 8

// look asks the sources of the models what they hold now. What went wrong with
// one is kept with it. The repository of a model that is pinned is asked for
// nothing as long as nothing of it is to be made.
func (r *Refresher) look(ctx context.Context, models []*wantedModel, have *actual) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, lookers)
	for _, m := range models {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			pin := have.models[m.Slug].pinned(m)
			if pin != "" && m.folder == "" {
				m.upstream = upstream{commit: pin}
				if len(r.missing(m, have)) == 0 {
					return
				}
			}
			m.upstream = r.lookAt(ctx, m, pin)
		})
	}
	wg.Wait()
}

// lookAt asks the source of a model, at the commit that it is pinned to or at
// its revision.
func (r *Refresher) lookAt(ctx context.Context, m *wantedModel, pin string) upstream {
	if m.folder != "" {
		commit, size, err := folderDigest(ctx, m.folder, r.cacheOf(m.folder))
		if err != nil {
			return upstream{err: err}
		}
		if pin != "" && pin != commit {
			return upstream{commit: pin, err: fmt.Errorf("%s: is another than the one that it is pinned to, %.12s: a folder does not keep what it had: say update = \"follow\"", m.Source, pin)}
		}
		s, err := OpenSource(ctx, m.folder, r.Log)
		if err != nil {
			return upstream{err: err}
		}
		s.Name = filepath.Base(m.folder)
		return readUpstream(upstream{source: s, commit: commit, bytes: size})
	}
	s, err := OpenSource(ctx, m.Source+"@"+cmp.Or(pin, m.Revision), r.Log)
	if err != nil {
		return upstream{err: err}
	}
	u := upstream{source: s, commit: s.Commit}
	for _, f := range s.Snapshot.Files() {
		if strings.HasSuffix(f.Path, ".safetensors") {
			u.bytes += f.Size
		}
	}
	return readUpstream(u)
}

// cacheOf is the file that remembers a folder's digests; there is none where
// nothing is to be written.
func (r *Refresher) cacheOf(folder string) string {
	if r.DryRun {
		return ""
	}
	return (&Worker{Dir: r.Work}).cache(folder)
}

// readUpstream adds what the model card says.
func readUpstream(u upstream) upstream {
	const readme, most = "README.md", 1 << 20
	f, err := u.source.FS.Open(readme)
	if errors.Is(err, fs.ErrNotExist) {
		return u
	}
	if err != nil {
		u.err = err
		return u
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err == nil {
		u.license, err = catalog.CardLicense(data)
	}
	if err != nil {
		u.err = fmt.Errorf("model card: %w", err)
	}
	return u
}

// close closes the sources.
func (d *desired) close() {
	for _, m := range d.models {
		if m.upstream.source != nil {
			m.upstream.source.Close()
		}
	}
}
