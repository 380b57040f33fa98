// Package fromhf reads a Hugging Face folder as a spec.Model: config.json and
// the names of the safetensors, by what transformers' modelling code means by
// them. It shares nothing with package convert, so that each checks the other.
//
// A family is a literal in a file of its own, which registers itself: the
// model classes that it covers, and a function that walks through the model as
// the modelling code does and says of each tensor what it is. A field that is
// missing, a value that is not known, a tensor that nothing claimed, or one of
// another shape is an error that names it.
package fromhf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/safetensors"
)

// A family is a group of model classes that one function reads.
type family struct {
	classes []string // of config.json's architectures

	// prefixes are taken off the tensors' names, the first that fits, before
	// the family sees them.
	prefixes []string

	// others are the beginnings of names, without prefix, of tensors that are
	// not part of what runs: of other modalities, of heads for training.
	others []string

	// buffers are the endings of names of tensors that the modelling code
	// computes itself.
	buffers []string

	read func(r *reader)
}

var families = map[string]*family{}

// register adds a family to the table.
func register(f family) struct{} {
	for _, class := range f.classes {
		if families[class] != nil {
			panic("fromhf: class " + class + " is there twice")
		}
		families[class] = &f
	}
	return struct{}{}
}

// Classes returns the model classes that can be read, sorted.
func Classes() []string { return slices.Sorted(maps.Keys(families)) }

// maxConfig is the largest config.json that is read, in bytes.
const maxConfig = 16 << 20

// Open reads the model in the root folder of fsys, whose files must implement
// io.ReaderAt. Weights are read when they are asked for; Close closes the
// files.
func Open(ctx context.Context, fsys fs.FS) (*spec.Model, error) {
	data, err := readFile(fsys, "config.json")
	if err != nil {
		return nil, err
	}
	config, err := parseConfig("config.json", data)
	if err != nil {
		return nil, err
	}
	class, fam, err := config.family()
	if err != nil {
		return nil, err
	}
	checkpoint, err := safetensors.Open(ctx, fsys)
	if err != nil {
		return nil, err
	}
	m, err := read(ctx, fsys, config, class, fam, checkpoint)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", class, err), checkpoint.Close())
	}
	return m, nil
}

func read(ctx context.Context, fsys fs.FS, config *config, class string, fam *family, checkpoint *safetensors.Checkpoint) (*spec.Model, error) {
	r := &reader{
		config:  config,
		ctx:     ctx,
		fsys:    fsys,
		class:   class,
		tensors: map[string]*tensor{},
		model: &spec.Model{
			Family:    class,
			Embedding: spec.Embedding{Scale: 1},
			Weights:   map[spec.Slot]spec.Weight{},
			Source:    checkpoint,
		},
	}
	if err := r.index(fam, checkpoint); err != nil {
		return nil, err
	}
	scheme, err := config.quantization()
	if err != nil {
		return nil, err
	}
	r.scheme = scheme
	fam.read(r)
	if config.err != nil {
		return nil, config.err
	}
	var left []string
	for _, t := range r.tensors {
		if !t.claimed {
			left = append(left, t.Name)
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		return nil, fmt.Errorf("%d tensors that nothing of the model claims, first %s", len(left), left[0])
	}
	if err := r.model.Check(); err != nil {
		return nil, err
	}
	return r.model, nil
}

// index lists the tensors by their names without prefix.
func (r *reader) index(fam *family, checkpoint *safetensors.Checkpoint) error {
	for file, t := range checkpoint.All() {
		name := t.Name
		for _, p := range fam.prefixes {
			if rest, ok := strings.CutPrefix(name, p); ok {
				name = rest
				break
			}
		}
		if other := r.tensors[name]; other != nil {
			return fmt.Errorf("tensors %s and %s both stand for %s", other.Name, t.Name, name)
		}
		begins := func(p string) bool { return strings.HasPrefix(name, p) }
		ends := func(s string) bool { return strings.HasSuffix(name, s) }
		r.tensors[name] = &tensor{
			Tensor:  t,
			file:    file,
			claimed: slices.ContainsFunc(fam.others, begins) || slices.ContainsFunc(fam.buffers, ends),
		}
	}
	return nil
}

// readFile reads a small file.
func readFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxConfig)
	}
	return data, nil
}
