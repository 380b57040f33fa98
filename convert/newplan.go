package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// Options are what the user decides about a conversion.
type Options struct {
	Types TypePolicy // nil is --type auto

	// Source is what the model is called where it comes from: a folder's name,
	// or org/name on the Hub. The general metadata is guessed from it where
	// the model card says nothing.
	Source string
	// Repository and Commit say where a source from the Hub was read; both are
	// recorded in the file.
	Repository, Commit string

	Name string    // general.name; "" is what the source says
	Meta []gguf.KV // further keys, which win over all others
	Pre  string    // tokenizer.ggml.pre, for a pre-tokenizer that is not known
}

// maxSmallFile bounds config.json and the other files that are read whole.
const maxSmallFile = 64 << 20

// smallFiles is a source that remembers what readFile read of it: conditions of
// the table may ask for the same file often, and each time is a request where
// the source is remote.
type smallFiles struct {
	fs.FS
	read map[string]smallFile
}

type smallFile struct {
	data []byte
	err  error
}

// readFile reads a small file of the source; it returns fs.ErrNotExist as it is.
func readFile(source fs.FS, name string) ([]byte, error) {
	s, ok := source.(smallFiles)
	if !ok {
		return readWhole(source, name)
	}
	f, ok := s.read[name]
	if !ok {
		f.data, f.err = readWhole(s.FS, name)
		s.read[name] = f
	}
	return f.data, f.err
}

func readWhole(source fs.FS, name string) ([]byte, error) {
	f, err := source.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxSmallFile {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, maxSmallFile)
	}
	return data, nil
}

// NewPlan plans the conversion of a Hugging Face repository. It reads the
// config, the tokenizer and the headers of the tensor files, and no weights;
// the same inputs give the same plan.
func NewPlan(ctx context.Context, source fs.FS, o Options) (*Plan, error) {
	data, err := readFile(source, "config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("plan: config.json is not there: the source is not a model in Hugging Face's layout: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	m, err := newModel(data, source)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	checkpoint, err := ReadCheckpoint(ctx, source, m.Config)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", m.arch.Name, err)
	}
	p, err := m.plan(o, checkpoint)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", m.arch.Name, err)
	}
	return p, nil
}

// newModel finds the row of the table for a config.
func newModel(config []byte, source fs.FS) (*Model, error) {
	c, err := ParseConfig(config)
	if err != nil {
		return nil, err
	}
	names, err := c.Classes()
	if err != nil {
		return nil, err
	}
	arch, class, err := Lookup(names)
	if err != nil {
		return nil, err
	}
	rope, err := c.Rope()
	if err != nil {
		return nil, err
	}
	if rope.kind() == "" {
		for k, v := range arch.Rope {
			rope.Full[k] = v
		}
	}
	if err := rope.check(); err != nil {
		return nil, err
	}
	if _, err := c.Bool("tie_word_embeddings"); err != nil {
		return nil, err
	}
	return &Model{Config: c, Class: class, arch: arch, rope: rope, source: smallFiles{source, map[string]smallFile{}}}, nil
}

// plan makes the plan for a checkpoint.
func (m *Model) plan(o Options, checkpoint *Checkpoint) (*Plan, error) {
	m.options = o
	m.observe(checkpoint.Tensors)
	if err := m.readVocabulary(o); err != nil {
		return nil, err
	}
	outs, err := m.outputs(checkpoint.Tensors)
	if err != nil {
		return nil, err
	}
	if m.arch.Constants != nil {
		constants, err := m.arch.Constants(m)
		if err != nil {
			return nil, err
		}
		outs = append(outs, constants...)
	}
	slices.SortFunc(outs, func(a, b output) int { return quantize.CompareNames(a.name, b.name) })

	md, notes, err := m.header(o, outs)
	if err != nil {
		return nil, err
	}
	p, err := layOut(md, outs, o.Types, checkpoint.Stored)
	if err != nil {
		return nil, err
	}
	p.Arch = m.arch.Name
	p.Notes = append(notes, p.Notes...)
	return p, nil
}

// observe notes what the rules' conditions ask about the checkpoint.
func (m *Model) observe(tensors []Tensor) {
	for _, t := range tensors {
		name := m.arch.shortName(t.Name)
		m.prefixed = m.prefixed || name != t.Name
		m.headed = m.headed || name == "lm_head.weight"
	}
}

// readVocabulary reads the tokenizer, which gets as many tokens as the
// embedding has rows.
func (m *Model) readVocabulary(o Options) error {
	size, err := m.dim("vocab", -1)
	if err != nil {
		return err
	}
	if size > tokenizer.MaxTokens {
		return fmt.Errorf("config.json: %s: %d is out of range", m.dimLabel("vocab"), size)
	}
	files, err := tokenizer.Load(m.source.FS)
	if err != nil {
		return err
	}
	options := m.arch.Vocab
	options.Size, options.Arch, options.Pre = int(size), m.arch.Name, o.Pre
	m.vocab, err = files.Vocabulary(options)
	return err
}

// header is the file's metadata but for what the types decide.
func (m *Model) header(o Options, outs []output) (gguf.Metadata, []string, error) {
	md := gguf.Metadata{{Key: "general.architecture", Value: m.arch.Name}, {Key: "general.type", Value: "model"}}
	general, notes, err := generalMetadata(m.source, m.Config, o, countParameters(outs))
	if err != nil {
		return nil, nil, err
	}
	md = append(md, general...)
	own, err := m.metadata(m.arch.Keys)
	if err != nil {
		return nil, nil, err
	}
	if err := m.checkExperts(own); err != nil {
		return nil, nil, err
	}
	for _, list := range []gguf.Metadata{own, m.vocab.Metadata()} {
		for _, kv := range list {
			md.Set(kv.Key, kv.Value)
		}
	}
	last, err := m.metadata(m.arch.VocabKeys)
	if err != nil {
		return nil, nil, err
	}
	for _, kv := range last {
		md.Set(kv.Key, kv.Value)
	}
	if o.Repository != "" {
		md.Set("general.source.huggingface.repository", o.Repository)
	}
	if o.Commit != "" {
		md.Set("general.source.huggingface.commit", o.Commit)
	}
	for _, kv := range o.Meta {
		md.Set(kv.Key, kv.Value)
	}
	notes = append(notes, m.vocab.Notes...)
	if m.arch.Differs != nil {
		note, err := m.arch.Differs(m)
		if err != nil {
			return nil, nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
	}
	return md, notes, nil
}

// checkExperts holds what a token uses against what there is.
func (m *Model) checkExperts(md gguf.Metadata) error {
	for _, pair := range [][2]string{{"expert_used_count", "expert_count"}, {"expert_group_used_count", "expert_group_count"}} {
		used, _ := md.Get(m.keyName(pair[0]))
		count, _ := md.Get(m.keyName(pair[1]))
		u, isUsed := used.(uint32)
		if c, ok := count.(uint32); ok && isUsed && u > c {
			return fmt.Errorf("%s: %d is more than %s, which is %d", m.keyName(pair[0]), u, pair[1], c)
		}
	}
	return nil
}

// layOut chooses the types and places the tensors in the file.
func layOut(md gguf.Metadata, outs []output, types TypePolicy, stored []Leaf) (*Plan, error) {
	if types == nil {
		types = plainType{auto: true}
	}
	tensors := make([]OutputTensor, len(outs))
	for i, out := range outs {
		shape := slices.Clone(out.shape)
		slices.Reverse(shape)
		if len(shape) == 0 {
			shape = []int64{1}
		}
		tensors[i] = OutputTensor{Name: out.name, Shape: shape, DType: out.dtype}
	}
	chosen, err := types.Types(tensors, stored, md)
	if err != nil {
		return nil, err
	}
	md.Set("general.quantization_version", uint32(2))
	md.Set("general.file_type", chosen.FileType)
	for _, kv := range chosen.Metadata {
		md.Set(kv.Key, kv.Value)
	}

	p := &Plan{
		Header:         gguf.Header{Version: gguf.Version, Metadata: md, Alignment: 32},
		Notes:          chosen.Notes,
		NeedImportance: chosen.NeedImportance,
	}
	for i, t := range tensors {
		p.Header.Tensors = append(p.Header.Tensors, gguf.TensorInfo{Name: t.Name, Type: chosen.Types[i], Shape: t.Shape})
	}
	if p.Size, err = p.Header.Layout(); err != nil {
		return nil, err
	}
	if p.HeaderSize, err = p.Header.DataOffset(); err != nil {
		return nil, err
	}
	p.Steps = make([]Step, len(outs))
	for i, info := range p.Header.Tensors {
		size, err := info.Size()
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", info.Name, err)
		}
		n, err := info.Elements()
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", info.Name, err)
		}
		p.Parameters += n
		p.Steps[i] = Step{Name: info.Name, Type: info.Type, Shape: info.Shape, Offset: p.HeaderSize + info.Offset, Size: size, From: outs[i].from}
		if rows, cols := outs[i].from.Dims(); rows*cols != n {
			return nil, fmt.Errorf("tensor %s: %d elements from %v: want %d", info.Name, rows*cols, outs[i].from, n)
		}
	}
	return p, nil
}
