package convert

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// PlanGGUF plans a GGUF file, or all parts of a split one, in other types. The
// metadata stays as it is but for what the types decide; tensors that keep
// their type are copied block by block, the others are decoded and encoded.
// Without o.Types every tensor keeps its type.
func PlanGGUF(ctx context.Context, source fs.FS, name string, o Options) (*Plan, error) {
	f, err := gguf.OpenFS(source, name)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	defer f.Close()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var outs []output
	var stored []Leaf
	for i, info := range f.Header.Tensors {
		part, offset, size := f.Locate(i)
		shape := slices.Clone(info.Shape)
		slices.Reverse(shape)
		l := Leaf{File: f.Parts[part].Name, Name: info.Name, DType: info.Type.String(), Shape: shape, Offset: offset, Size: size}
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
		stored = append(stored, l)
		outs = append(outs, output{name: info.Name, dtype: l.DType, shape: shape, from: l})
	}
	slices.SortFunc(outs, func(a, b output) int { return quantize.CompareNames(a.name, b.name) })
	// The data is laid out anew, at the default alignment.
	md := slices.DeleteFunc(slices.Clone(f.Header.Metadata), func(kv gguf.KV) bool { return kv.Key == "general.alignment" })
	fileType, _ := md.Get("general.file_type")
	types := o.Types
	if types == nil {
		keep, _ := fileType.(uint32)
		types = keptTypes{keep}
	}
	if o.Name != "" {
		md.Set("general.name", o.Name)
	}
	for _, kv := range o.Meta {
		md.Set(kv.Key, kv.Value)
	}
	p, err := layOut(md, outs, types, stored)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	arch, err := md.String("general.architecture")
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p.Arch = arch
	lost := map[gguf.Type]int{}
	for i := range p.Steps {
		if t, ok := Native(p.Steps[i].From); ok && t.BlockElements() > 1 && t != p.Steps[i].Type {
			lost[t]++
		}
	}
	if len(lost) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("the source is quantized (%s): what was rounded away there stays lost, and is rounded a second time; convert the original model where you can", countTypes(lost)))
	}
	return p, nil
}

// countTypes lists how many tensors are of which type.
func countTypes(n map[gguf.Type]int) string {
	var parts []string
	for _, t := range slices.SortedFunc(maps.Keys(n), func(a, b gguf.Type) int { return cmp.Or(n[b]-n[a], cmp.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf("%d tensors of %s", n[t], t))
	}
	return strings.Join(parts, ", ")
}

// keptTypes leaves every tensor of a GGUF file as it is.
type keptTypes struct{ fileType uint32 }

func (k keptTypes) Types(tensors []OutputTensor, _ []Leaf, _ gguf.Metadata) (Types, error) {
	out := Types{FileType: k.fileType}
	for _, t := range tensors {
		typ, err := gguf.ParseType(t.DType)
		if err != nil {
			return Types{}, fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		out.Types = append(out.Types, typ)
	}
	return out, nil
}
