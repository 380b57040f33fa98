package convert

import (
	"errors"
	"fmt"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// recipeTypes chooses as llama-quantize does from a file that upstream's
// converter wrote with --outtype auto: tensors that are not quantized keep the
// type that they have there.
type recipeTypes struct {
	recipe     quantize.Recipe
	importance *quantize.Imatrix
	file       string // what the importance matrix was read from
}

func (p recipeTypes) Types(tensors []OutputTensor, stored []Leaf, md gguf.Metadata) (Types, error) {
	kept, err := plainType{auto: true}.Types(tensors, stored, md)
	if err != nil {
		return Types{}, err
	}
	model, err := QuantizedModel(md)
	if err != nil {
		return Types{}, err
	}
	list := make([]quantize.Tensor, len(tensors))
	for i, t := range tensors {
		list[i] = quantize.Tensor{Name: t.Name, Shape: t.Shape, Type: kept.Types[i]}
	}
	chosen, err := p.recipe.Assign(model, list, p.importance != nil)
	if err != nil {
		return Types{}, err
	}
	out := Types{Types: make([]gguf.Type, len(tensors)), FileType: chosen.FileType}
	missing := map[string]bool{}
	if p.importance != nil {
		coverage, err := p.importance.Match(list)
		if err != nil {
			return Types{}, err
		}
		out.Metadata = p.importance.Metadata(p.file)
		for _, name := range coverage.Missing {
			missing[name] = true
			out.Notes = append(out.Notes, name+": no importance data")
		}
		out.Notes = append(out.Notes, coverage.Idle...)
	}
	for i, c := range chosen.Choices {
		t := tensors[i]
		out.Types[i] = c.Type
		if c.Type != c.Wanted {
			out.Notes = append(out.Notes, fmt.Sprintf("%s: a row of %d does not hold %s: %s instead", t.Name, t.Shape[0], c.Wanted, c.Type))
		}
		if requantizes(t.DType, c.Type) {
			out.Notes = append(out.Notes, fmt.Sprintf("%s: quantized again, from %s", t.Name, t.DType))
		}
		if c.NeedsImportance && (p.importance == nil || missing[t.Name]) {
			out.NeedImportance = append(out.NeedImportance, t.Name)
		}
	}
	return out, nil
}

// requantizes reports whether blocks of the source lose a second time.
func requantizes(stored string, t gguf.Type) bool {
	from, err := gguf.ParseType(stored)
	return err == nil && from != t && from.BlockElements() > 1
}

// QuantizedModel reads from a file's metadata what the choice of types depends
// on. Keys that only mixtures ask for may be missing, as in files that hold a
// few tensors.
func QuantizedModel(md gguf.Metadata) (quantize.Model, error) {
	arch, err := md.String("general.architecture")
	if err != nil {
		return quantize.Model{}, err
	}
	m := quantize.Model{Arch: arch}
	for _, field := range []struct {
		key string
		to  *int
	}{
		{"block_count", &m.Layers},
		{"attention.head_count", &m.Heads},
		{"attention.head_count_kv", &m.HeadsKV},
		{"expert_count", &m.Experts},
	} {
		n, err := firstInt(md, arch+"."+field.key)
		if err != nil && !errors.Is(err, gguf.ErrNoKey) {
			return quantize.Model{}, err
		}
		*field.to = int(n)
	}
	if _, ok := md.Get(arch + ".attention.head_count_kv"); !ok {
		m.HeadsKV = m.Heads // as llama.cpp reads it
	}
	return m, nil
}

// firstInt returns an integer, or the first of a list with one per layer.
func firstInt(md gguf.Metadata, key string) (int64, error) {
	v, _ := md.Get(key)
	switch list := v.(type) {
	case []int32:
		if len(list) > 0 {
			return int64(list[0]), nil
		}
	case []uint32:
		if len(list) > 0 {
			return int64(list[0]), nil
		}
	}
	return md.Int(key)
}
