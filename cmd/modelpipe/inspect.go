package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/safetensors"
)

func init() { register(newInspect) }

func newInspect(a *app) *cobra.Command {
	var file string
	var full bool
	cmd := &cobra.Command{
		Use:   "inspect SOURCE",
		Short: "Show the metadata and the tensors of a GGUF or safetensors model",
		Long: `Inspect reads and checks the headers of a model, and shows its metadata and its
tensors: name, type, shape, offset in the file, bytes. Weights are not read.

SOURCE is a GGUF or safetensors file, any part of a split GGUF, a folder with a
checkpoint, a URL (http:// or https://), or a repository hf://org/name[@revision].
GGUF shapes have the length of a row first, safetensors shapes have it last, as
each format stores them. Long values are shortened unless --full is given.`,
		Example: `  modelpipe inspect model.gguf
  modelpipe inspect hf://Qwen/Qwen3-0.6B
  modelpipe inspect hf://org/name-GGUF --file name-Q4_K_M.gguf --json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.inspect(cmd.Context(), args[0], file, full)
			if err != nil {
				return fmt.Errorf("inspect %s: %w", pipeline.ShownSource(args[0]), err)
			}
			if a.json {
				return a.printJSON(v)
			}
			return v.print(a.stdout)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "the `NAME` of the file in the folder or repository to inspect")
	cmd.Flags().BoolVar(&full, "full", false, "show long values whole")
	return cmd
}

// inspection is what inspect shows of a model.
type inspection struct {
	Source     string       `json:"source"`
	Format     string       `json:"format"`               // "gguf" or "safetensors"
	Version    uint32       `json:"version,omitempty"`    // of the format, GGUF only
	Alignment  int64        `json:"alignment,omitempty"`  // bytes, GGUF only
	Repository string       `json:"repository,omitempty"` // on the Hub
	Commit     string       `json:"commit,omitempty"`     // of the repository
	BytesRead  int64        `json:"bytes_read,omitempty"` // over the network
	Bytes      int64        `json:"bytes"`                // of all files
	Parameters int64        `json:"parameters"`           // elements of all tensors
	Files      []fileView   `json:"files"`
	Metadata   []valueView  `json:"metadata"`
	Tensors    []tensorView `json:"tensors"`
}

type fileView struct {
	Name       string `json:"name"`
	Bytes      int64  `json:"bytes"`
	DataOffset int64  `json:"data_offset"` // of the data section
}

// valueView is one metadata entry. Where Shortened, Value has less than the
// file: Count says how many elements an array has, or bytes a string.
type valueView struct {
	Key       string `json:"key"`
	Type      string `json:"type"` // "uint32", "array of string"
	Count     int    `json:"count,omitempty"`
	Shortened bool   `json:"shortened,omitempty"`
	Value     any    `json:"value"`
}

type tensorView struct {
	Name   string  `json:"name"`
	Type   string  `json:"type"`
	Shape  []int64 `json:"shape"`
	Offset int64   `json:"offset"` // of the first byte in the file
	Bytes  int64   `json:"bytes"`
	File   int     `json:"file"` // index in Files
}

// inspect reads the headers of a source and describes them.
func (a *app) inspect(ctx context.Context, arg, file string, full bool) (v *inspection, err error) {
	s, err := pipeline.OpenSource(ctx, arg, a.log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if file != "" {
		if s.File != "" || !fs.ValidPath(file) {
			return nil, usagef("--file %s: want the name of a file in a folder or repository", file)
		}
		s.File = file
	}
	v = &inspection{Source: s.Arg, Repository: s.Repo, Commit: s.Commit, Metadata: []valueView{}, Tensors: []tensorView{}}
	if err := v.read(ctx, s, full); err != nil {
		return nil, err
	}
	if s.BytesRead != nil {
		v.BytesRead = s.BytesRead()
	}
	return v, nil
}

// read finds out what the source holds and reads it.
func (v *inspection) read(ctx context.Context, s *pipeline.Source, full bool) error {
	if s.File != "" {
		isGGUF, err := isGGUF(s, s.File)
		if err != nil {
			return err
		}
		if isGGUF {
			return v.readGGUF(s, s.File, full)
		}
		c, err := safetensors.OpenFile(ctx, s.FS, s.File)
		if err != nil {
			return err
		}
		return v.readCheckpoint(c, full)
	}
	c, err := safetensors.Open(ctx, s.FS)
	if err == nil {
		return v.readCheckpoint(c, full)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	models, ggufErr := ggufModels(s.FS)
	switch {
	case ggufErr != nil:
		return ggufErr
	case len(models) == 0:
		return errors.New("no model there: neither *.safetensors nor *.gguf files (name one in a subfolder with --file)")
	case len(models) > 1:
		return fmt.Errorf("%d GGUF models (%s): choose one with --file", len(models), strings.Join(models[:min(len(models), 8)], ", "))
	}
	return v.readGGUF(s, models[0], full)
}

// ggufModels returns the GGUF models in the root folder of fsys, sorted; a
// split is its first part.
func ggufModels(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		_, no, _, split := gguf.ParseSplitName(e.Name())
		if !e.IsDir() && path.Ext(e.Name()) == ".gguf" && (!split || no == 0) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// isGGUF tells the formats apart: by the magic, and by the name where a file
// that should be a GGUF does not have it, so that the error says so.
func isGGUF(s *pipeline.Source, name string) (bool, error) {
	if path.Ext(name) == ".gguf" {
		return true, nil
	}
	if path.Ext(name) == ".safetensors" {
		return false, nil
	}
	f, size, err := s.OpenFile(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, min(size, 4))
	if _, err := f.ReadAt(magic, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(magic) == "GGUF", nil
}

func (v *inspection) readGGUF(s *pipeline.Source, name string, full bool) (err error) {
	f, err := gguf.OpenFS(s.FS, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	v.Format, v.Version, v.Alignment = "gguf", f.Header.Version, f.Header.Alignment
	for _, p := range f.Parts {
		v.addFile(p.Name, p.Size, p.DataOffset)
	}
	for _, kv := range f.Header.Metadata {
		v.Metadata = append(v.Metadata, viewOf(kv.Key, kv.Value, full))
	}
	for i, t := range f.Header.Tensors {
		part, offset, size := f.Locate(i)
		n, err := t.Elements()
		if err != nil {
			return err
		}
		v.addTensor(tensorView{t.Name, t.Type.String(), t.Shape, offset, size, part}, n)
	}
	return nil
}

func (v *inspection) readCheckpoint(c *safetensors.Checkpoint, full bool) (err error) {
	defer func() { err = errors.Join(err, c.Close()) }()
	v.Format = "safetensors"
	type entry struct{ key, value string }
	seen := map[entry]bool{} // most shards of a checkpoint say the same
	for i, f := range c.Files {
		v.addFile(f.Name, f.Size, f.DataOffset)
		for _, k := range slices.Sorted(maps.Keys(f.Metadata)) {
			if e := (entry{k, f.Metadata[k]}); !seen[e] {
				seen[e] = true
				v.Metadata = append(v.Metadata, viewOf(k, e.value, full))
			}
		}
		for _, t := range f.Tensors {
			n, err := t.Elements()
			if err != nil {
				return err
			}
			v.addTensor(tensorView{t.Name, t.DType.String(), t.Shape, f.DataOffset + t.Offset, t.Size, i}, n)
		}
	}
	return nil
}

func (v *inspection) addFile(name string, size, dataOffset int64) {
	v.Files = append(v.Files, fileView{name, size, dataOffset})
	v.Bytes += size
}

func (v *inspection) addTensor(t tensorView, elements int64) {
	v.Tensors = append(v.Tensors, t)
	v.Parameters += elements
}

// What is shown of a long value.
const (
	shortArray  = 8   // elements
	shortString = 120 // bytes
)

// viewOf describes a metadata value, for JSON and for people.
func viewOf(key string, value any, full bool) valueView {
	t, elem, n, _ := gguf.TypeOf(value)
	v := valueView{Key: key, Type: t.String()}
	if t == gguf.Array {
		v.Type, v.Count = "array of "+elem.String(), n
		if !full && n > shortArray {
			v.Shortened, value = true, reflect.ValueOf(value).Slice(0, shortArray).Interface()
		}
	}
	if s, ok := value.(string); ok && !full && len(s) > shortString {
		v.Count, v.Shortened, value = len(s), true, cut(s)
	}
	v.Value = plain(reflect.ValueOf(value))
	return v
}

// cut shortens a string at the end of a character.
func cut(s string) string {
	n := shortString
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// plain turns a metadata value into what JSON can hold: arrays become []any,
// a float that JSON does not have becomes its name.
func plain(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Interface:
		return plain(v.Elem())
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	case reflect.Float32, reflect.Float64:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return strconv.FormatFloat(f, 'g', -1, 64)
		}
	}
	return v.Interface()
}

// print writes the inspection as text.
func (v *inspection) print(out io.Writer) error {
	w := bufio.NewWriter(out)
	format := "safetensors"
	if v.Format == "gguf" {
		format = fmt.Sprintf("GGUF version %d, alignment %d", v.Version, v.Alignment)
	}
	fmt.Fprintf(w, "%s: %s\n", printable(v.Source), format)
	if v.Commit != "" {
		fmt.Fprintf(w, "%s at commit %s\n", v.Repository, v.Commit)
	}
	fmt.Fprintf(w, "%d tensors, %d parameters, %d bytes", len(v.Tensors), v.Parameters, v.Bytes)
	if v.BytesRead > 0 {
		fmt.Fprintf(w, ", of which %d were read", v.BytesRead)
	}
	fmt.Fprintf(w, "\n")

	table(w, fmt.Sprintf("files (%d)", len(v.Files)), []column{{"#", true}, {"name", false}, {"data offset", true}, {"bytes", true}}, len(v.Files), func(i int) []string {
		f := v.Files[i]
		return []string{strconv.Itoa(i), printable(f.Name), number(f.DataOffset), number(f.Bytes)}
	})
	table(w, fmt.Sprintf("metadata (%d)", len(v.Metadata)), []column{{"key", false}, {"type", false}, {"value", false}}, len(v.Metadata), func(i int) []string {
		m := v.Metadata[i]
		typ := m.Type
		if elem, ok := strings.CutPrefix(typ, "array of "); ok {
			typ = fmt.Sprintf("%s[%d]", elem, m.Count)
		}
		return []string{printable(m.Key), typ, m.text()}
	})
	table(w, fmt.Sprintf("tensors (%d)", len(v.Tensors)), []column{{"name", false}, {"type", false}, {"shape", false}, {"file", true}, {"offset", true}, {"bytes", true}}, len(v.Tensors), func(i int) []string {
		t := v.Tensors[i]
		return []string{printable(t.Name), t.Type, shape(t.Shape), strconv.Itoa(t.File), number(t.Offset), number(t.Bytes)}
	})
	return w.Flush()
}

// text is the value on one line.
func (m valueView) text() string {
	more := ""
	if m.Shortened {
		more = "..."
	}
	switch value := m.Value.(type) {
	case string:
		return strconv.Quote(value) + more
	case []any:
		parts := make([]string, len(value))
		for i, e := range value {
			parts[i] = valueView{Value: e}.text()
		}
		if m.Shortened {
			parts = append(parts, more)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(m.Value)
}

// printable is a name from a file or a user without what would break a line.
func printable(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func shape(dims []int64) string {
	if len(dims) == 0 {
		return "scalar"
	}
	var b strings.Builder
	for i, d := range dims {
		if i > 0 {
			b.WriteString(" x ")
		}
		b.WriteString(number(d))
	}
	return b.String()
}

// column of a table; numbers are flush right.
type column struct {
	title string
	right bool
}

// table writes n rows under a heading. It asks for each row twice instead of
// keeping them: there may be hundreds of thousands.
func table(w *bufio.Writer, heading string, columns []column, n int, row func(i int) []string) {
	fmt.Fprintf(w, "\n%s\n", heading)
	if n == 0 {
		return
	}
	widths := make([]int, len(columns))
	measure := func(cells []string) {
		for i, c := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	write := func(cells []string) {
		for i, c := range cells {
			w.WriteString("  ")
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			switch {
			case columns[i].right:
				w.WriteString(space)
				w.WriteString(c)
			case i == len(cells)-1:
				w.WriteString(c)
			default:
				w.WriteString(c)
				w.WriteString(space)
			}
		}
		w.WriteByte('\n')
	}
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	measure(titles)
	for i := range n {
		measure(row(i))
	}
	write(titles)
	for i := range n {
		write(row(i))
	}
}
