package convert

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

// OutputTensor is what a TypePolicy knows about a tensor of the file.
type OutputTensor struct {
	Name  string
	Shape []int64 // ne order: Shape[0] is the row length
	DType string  // of the source: a safetensors dtype, or MXFP4
}

// A TypePolicy chooses the type of every tensor of a file.
type TypePolicy interface {
	// Types chooses for the tensors of a file whose metadata is md; stored are
	// the tensors of the checkpoint in the order of its files.
	Types(tensors []OutputTensor, stored []Leaf, md gguf.Metadata) (Types, error)
}

// Types are the types of a file's tensors.
type Types struct {
	Types    []gguf.Type // one per tensor
	FileType uint32      // general.file_type
	Notes    []string    // what a reader of the plan should know: types that a row could not hold

	// Metadata are keys that say how the types were chosen.
	Metadata gguf.Metadata
	// NeedImportance names the tensors that must not be encoded without
	// importance data and have none.
	NeedImportance []string
}

// Values of general.file_type (llama.h, enum llama_ftype).
const (
	fileF32   = 0
	fileF16   = 1
	fileQ8_0  = 7
	fileBF16  = 32
	fileMXFP4 = 38
)

// NewTypePolicy returns the policy of a recipe, with an importance matrix read
// from the named file or nil. A recipe that only names auto, f32, f16, bf16 or
// q8_0 gives what upstream's converter writes; every other one what
// llama-quantize makes of that.
func NewTypePolicy(r quantize.Recipe, importance *quantize.Imatrix, file string) TypePolicy {
	name := strings.ToLower(r.Preset)
	if r.Preset == "" {
		name = "auto"
	}
	if plain, ok := plainTypes[name]; ok {
		alone := quantize.Recipe{Preset: r.Preset}
		if reflect.DeepEqual(r, alone) && importance == nil {
			return plain
		}
	}
	return recipeTypes{r, importance, file}
}

var plainTypes = map[string]plainType{
	"auto": {auto: true},
	"f32":  {gguf.F32, fileF32, false},
	"f16":  {gguf.F16, fileF16, false},
	"bf16": {gguf.BF16, fileBF16, false},
	"q8_0": {gguf.Q8_0, fileQ8_0, false},
}

// plainType is one type for all matrices, as upstream's converter writes them
// (conversion/base.py, ModelBase.prepare_tensors).
type plainType struct {
	base gguf.Type
	file uint32
	auto bool // base is that of the checkpoint
}

func (p plainType) Types(tensors []OutputTensor, stored []Leaf, _ gguf.Metadata) (Types, error) {
	if p.auto {
		p = storedType(stored)
	}
	var notes []string
	types := make([]gguf.Type, len(tensors))
	for i, t := range tensors {
		switch {
		case t.DType == "MXFP4":
			types[i] = gguf.MXFP4
			if p.base != gguf.Q8_0 {
				p.file = fileMXFP4
			}
			continue
		case AlwaysF32(t.Name, t.Shape):
			types[i] = gguf.F32
			continue
		case len(t.Shape) == 0:
			return Types{}, errors.New("tensor without a shape")
		}
		types[i] = p.base
		if _, err := p.base.RowBytes(t.Shape[0]); err != nil {
			types[i] = gguf.F16
			notes = append(notes, fmt.Sprintf("%s: %v: F16 instead", t.Name, err))
		}
	}
	return Types{Types: types, FileType: p.file, Notes: notes}, nil
}

// storedType follows the first matrix of the checkpoint that is stored in a
// 16-bit type; a checkpoint without one becomes F16.
func storedType(stored []Leaf) plainType {
	for _, t := range stored {
		if len(t.Shape) < 2 {
			continue
		}
		switch t.DType {
		case "BF16":
			return plainType{gguf.BF16, fileBF16, false}
		case "F16":
			return plainType{gguf.F16, fileF16, false}
		}
	}
	return plainType{gguf.F16, fileF16, false}
}

// keptF32 are matrices that are small or that ggml reads as F32 only.
var keptF32 = map[string]bool{
	"ffn_gate_inp.weight":        true,
	"ffn_gate_inp_shexp.weight":  true,
	"position_embd.weight":       true,
	"token_types.weight":         true,
	"ssm_conv1d.weight":          true,
	"ssm_conv1d_q.weight":        true,
	"ssm_conv1d_k.weight":        true,
	"ssm_conv1d_v.weight":        true,
	"shortconv.conv.weight":      true,
	"time_mix_first.weight":      true,
	"time_mix_w1.weight":         true,
	"time_mix_w2.weight":         true,
	"time_mix_decay_w1.weight":   true,
	"time_mix_decay_w2.weight":   true,
	"time_mix_lerp_fused.weight": true,
	"indexer.proj.weight":        true,
}

// AlwaysF32 reports whether a tensor stays F32 whatever the file's type is:
// vectors, norms, what is not a weight, and a few small matrices.
func AlwaysF32(name string, shape []int64) bool {
	if len(shape) <= 1 || strings.HasSuffix(name, "_norm.weight") || !strings.HasSuffix(name, ".weight") {
		return true
	}
	if rest, ok := strings.CutPrefix(name, "blk."); ok {
		_, name, _ = strings.Cut(rest, ".")
	}
	return keptF32[name]
}
