// Package export turns a catalog into the files that gateways and servers
// already read.
//
// Each format is a literal in a file of its own that registers itself: a
// function that says what a model becomes, and one that writes what all models
// became. A model that a format cannot describe is left out and reported, with
// the reason (Skipped); what a format has no place for is reported too, and the
// model stays in (Note).
//
// Exports depend on the catalog and the options alone: equal catalogs give
// equal bytes. Text goes through the encoder of the format (encoding/json,
// yaml), amounts of money are written digit by digit (see exact).
package export

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/internal/nearest"
	"github.com/modelpipe/modelpipe/internal/wholefile"
)

// Options are what exports need to know beyond the catalog. The zero value
// takes the defaults.
type Options struct {
	Root      string // folder of the nodes that holds a copy of the store; left out: DefaultRoot
	Gateway   string // name of the Kubernetes Gateway; left out: DefaultGateway
	Namespace string // of the Kubernetes objects; left out: default
}

const (
	DefaultRoot    = "/var/lib/modelpipe"
	DefaultGateway = "ai-gateway"
)

func (o *Options) fill() {
	o.Root = cmp.Or(strings.TrimRight(o.Root, "/"), DefaultRoot)
	o.Gateway = cmp.Or(o.Gateway, DefaultGateway)
	o.Namespace = cmp.Or(o.Namespace, "default")
}

// Path returns where a node has a file of a variant.
func (o *Options) Path(m *catalog.Model, v *catalog.Variant, f catalog.File) string {
	return o.Root + "/" + catalog.VariantDir(m.Slug, v.ID) + "/" + f.Path
}

// File is a file of an export.
type File struct {
	Name string // slash-separated
	Data []byte
}

// Remark is a model that a format leaves out, or something about a model that
// the format has no place for.
type Remark struct {
	Format string `json:"format"`
	Model  string `json:"model"` // slug, or name of a pairing
	Reason string `json:"reason"`
}

// Result is what an export made.
type Result struct {
	Files   []File
	Models  map[string]int // in each format
	Skipped []Remark
	Notes   []Remark
}

// Format is a form of a catalog that some program reads.
type Format interface {
	Name() string  // as on the command line
	Reads() string // the program that reads it
	start() run
}

// run is a format at work: model is called for each model that has an active
// release, in any order, then files.
type run interface {
	model(*job, *catalog.Model) error
	files(*job) ([]File, error)
}

// job is what a run works with.
type job struct {
	Options
	format  string
	subject string // model or pairing that notes are about
	result  *Result
}

// note reports something that the format has no place for.
func (j *job) note(format string, args ...any) {
	r := Remark{j.format, j.subject, fmt.Sprintf(format, args...)}
	if n := len(j.result.Notes); n == 0 || j.result.Notes[n-1] != r {
		j.result.Notes = append(j.result.Notes, r)
	}
}

// skip reports a model or a pairing that is left out.
func (j *job) skip(name string, reason error) {
	j.result.Skipped = append(j.result.Skipped, Remark{j.format, name, reason.Error()})
}

// unsupportedError is why a format leaves a model out.
type unsupportedError string

func (e unsupportedError) Error() string { return string(e) }

func unsupported(format string, args ...any) error {
	return unsupportedError(fmt.Sprintf(format, args...))
}

// format is a Format whose models become entries of type E.
type format[E any] struct {
	name  string
	reads string
	// entry is what a model becomes; an unsupported error leaves it out.
	entry func(*job, *catalog.Model) (E, error)
	// write makes the files of all entries.
	write func(*job, []E) ([]File, error)
}

func (f format[E]) Name() string  { return f.name }
func (f format[E]) Reads() string { return f.reads }
func (f format[E]) start() run    { return &entries[E]{format: f} }

type entries[E any] struct {
	format format[E]
	all    []named[E]
}

type named[E any] struct {
	slug  string
	entry E
}

func (r *entries[E]) model(j *job, m *catalog.Model) error {
	e, err := r.format.entry(j, m)
	if err == nil {
		r.all = append(r.all, named[E]{m.Slug, e})
	}
	return err
}

func (r *entries[E]) files(j *job) ([]File, error) {
	slices.SortStableFunc(r.all, func(a, b named[E]) int { return strings.Compare(a.slug, b.slug) })
	ordered := make([]E, len(r.all))
	for i, e := range r.all {
		ordered[i] = e.entry
	}
	return r.format.write(j, ordered)
}

var formats = map[string]Format{}

// register adds a format; its file calls it from init.
func register(f Format) {
	if _, taken := formats[f.Name()]; taken {
		panic("export: format " + f.Name() + " is registered twice")
	}
	formats[f.Name()] = f
}

// Formats returns the formats, ordered by name.
func Formats() []Format {
	var out []Format
	for _, f := range formats {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Format) int { return strings.Compare(a.Name(), b.Name()) })
	return out
}

// Lookup returns the formats with the names; "all" stands for every one. An
// unknown name is an error that names the nearest known one.
func Lookup(names ...string) ([]Format, error) {
	var out []Format
	for _, name := range names {
		if name == "all" {
			return Formats(), nil
		}
		f, ok := formats[name]
		if !ok {
			known := []string{"all"}
			for _, f := range Formats() {
				known = append(known, f.Name())
			}
			return nil, fmt.Errorf("unknown format %q; did you mean %q? want one of %s", short(name), nearest.Names(name, known, 1)[0], strings.Join(known, ", "))
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out, nil
}

// short cuts a text for an error.
func short(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// Export writes the models in the formats. Models come one at a time, in any
// order; what is kept of each is its entry in each format. Models that no
// release offers any more are left out of all formats.
func Export(models iter.Seq2[*catalog.Model, error], o Options, formats ...Format) (*Result, error) {
	o.fill()
	result := &Result{Models: map[string]int{}}
	runs := make([]run, len(formats))
	jobs := make([]*job, len(formats))
	for i, f := range formats {
		runs[i] = f.start()
		jobs[i] = &job{Options: o, format: f.Name(), result: result}
	}
	for m, err := range models {
		if err != nil {
			return nil, err
		}
		for i, r := range runs {
			j := jobs[i]
			j.subject = m.Slug
			err := error(unsupported("no release is active"))
			if m.Default() != nil {
				err = r.model(j, m)
			}
			if why := unsupportedError(""); errors.As(err, &why) {
				j.skip(m.Slug, err)
				continue
			} else if err != nil {
				return nil, fmt.Errorf("export %s as %s: %w", m.Slug, j.format, err)
			}
			result.Models[j.format]++
		}
	}
	for i, r := range runs {
		files, err := r.files(jobs[i])
		if err != nil {
			return nil, fmt.Errorf("export as %s: %w", jobs[i].format, err)
		}
		result.Files = append(result.Files, files...)
	}
	return result, nil
}

// jsonFile is a file with a JSON document.
func jsonFile(name string, v any) (File, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return File{name, append(data, '\n')}, err
}

// jsonList is a file with a JSON list, element by element, between what stands
// before and behind it.
func jsonList[E any](name, before, behind string, list []E) (File, error) {
	var b bytes.Buffer
	b.WriteString(before)
	indent := "  "
	if before != "" {
		indent = "    "
	}
	b.WriteByte('[')
	for i := range list {
		data, err := json.MarshalIndent(&list[i], indent, "  ")
		if err != nil {
			return File{}, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n" + indent)
		b.Write(data)
	}
	if len(list) > 0 {
		b.WriteString("\n" + indent[2:])
	}
	b.WriteString("]" + behind + "\n")
	return File{name, b.Bytes()}, nil
}

// yamlText writes YAML piece by piece. An encoder of package yaml keeps what it
// has written until it is done, which for large exports is too much.
type yamlText struct{ bytes.Buffer }

// put writes a value, each line behind the indent.
func (y *yamlText) put(indent string, v any) error {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(v), e.Close()); err != nil {
		return err
	}
	for line := range bytes.Lines(b.Bytes()) {
		if indent != "" && len(bytes.TrimSpace(line)) > 0 {
			y.WriteString(indent)
		}
		y.Write(line)
	}
	return nil
}

// yamlList writes a list under a key, or by itself where the key is empty.
func yamlList[E any](y *yamlText, key string, list []E) error {
	indent := ""
	switch {
	case key != "" && len(list) == 0:
		y.WriteString(key + ": []\n")
	case key != "":
		y.WriteString(key + ":\n")
		indent = "  "
	case len(list) == 0:
		y.WriteString("[]\n")
	}
	for i := range list {
		if err := y.put(indent, list[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// file is the text as a file.
func (y *yamlText) file(name string) File { return File{name, y.Bytes()} }

// one makes a list of files of a file.
func one(f File, err error) ([]File, error) { return []File{f}, err }

// Write writes files below a folder, which is made where it is not there.
// Readers see the old or the new file, each whole.
func Write(dir string, files []File) error {
	for _, f := range files {
		where := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(where), 0o777); err != nil {
			return fmt.Errorf("write %s: %w", where, err)
		}
		if err := wholefile.Write(where, func(w io.Writer) error {
			_, err := w.Write(f.Data)
			return err
		}); err != nil {
			return fmt.Errorf("write %s: %w", where, err)
		}
	}
	return nil
}
