package convert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/nearest"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// An Architecture is one row of the table: everything the converter knows
// about a family of models, as data. It says which classes of transformers it
// converts, which metadata the file gets and where in config.json it comes
// from, and what becomes of each tensor of the checkpoint.
//
// Each row is a literal in a file of its own (arch_NAME.go) that registers
// itself. What data cannot say is a named Transform or a named function that
// every row can use.
type Architecture struct {
	Name    string   // general.architecture
	Classes []string // of config.json's "architectures"

	// Dims are the row's own meanings of dimension names, before the common
	// ones of dims.go.
	Dims map[string]Dim
	// Rope are the rotary settings that the class has where its config says
	// nothing.
	Rope map[string]any
	// Keys are the metadata keys in the order of the file.
	Keys []Key
	// Tensors say what becomes of each tensor of the checkpoint.
	Tensors []Rule
	// Drop are patterns of checkpoint tensors that the output does not need.
	Drop []string
	// Prefixes are parts that some checkpoints put before tensor names and
	// others leave out ("model."); the rules' names are without them.
	Prefixes []string
	// Ignore is for tensors that a pattern cannot tell.
	Ignore func(m *Model, name string) bool
	// Constants are output tensors that the config alone fixes.
	Constants func(m *Model) ([]output, error)

	// Vocab is what the tokenizer's reader should know; the plan fills in Size,
	// Arch and Pre. VocabKeys come after its keys and win over them.
	Vocab     tokenizer.Options
	VocabKeys []Key

	// Differs says what llama.cpp computes in another way than the model's own
	// code; "" where it does not. It becomes a note of the plan.
	Differs func(m *Model) (string, error)
}

// A Key is one metadata entry. Name has "{arch}." put before it unless it
// starts with "general.", "tokenizer." or "classifier.".
type Key struct {
	Name  string
	Kind  gguf.ValueType // of the value, or of the elements of a list
	Value Value
}

// A Value computes a metadata value from the config: a number, a bool, a
// string or a list of these. It is nil where the file does not get the key.
type Value func(m *Model) (any, error)

// A Rule says what becomes of the tensors that match From: they are checked
// against Shape, transformed, and written as To. {bid} stands for the block's
// index, {eid} for an index that is stacked into a new outermost dimension.
//
// Several rules may take parts of one tensor, and several may be alternatives
// that lead to the same To.
type Rule struct {
	From string
	To   string
	// DType is MXFP4 for a rule about tensors whose blocks are copied, and
	// empty for one about all others.
	DType string
	// Shape is what the checkpoint's tensor must have (see Dim), outermost
	// first.
	Shape string
	// Count is the number of tensors that {eid} runs through.
	Count string
	Do    []Transform
	// Rename gives the output another name in some models or blocks; "" drops it.
	Rename func(m *Model, bid int, to string) string
	// Copy is for the second tensor that is made of the same weights: it does
	// not count as parameters.
	Copy bool
	// Need says in which blocks the tensor must be there; nil means that it
	// may be missing.
	Need func(m *Model, bid int) bool
}

var classes = map[string]*Architecture{} // by class of transformers

// register adds a row to the table; a class that is there twice is a mistake
// in the table.
func register(a Architecture) bool {
	for _, c := range a.Classes {
		if classes[c] != nil {
			panic("architecture table: class " + c + " is there twice")
		}
		classes[c] = &a
	}
	return true
}

// Classes returns the model classes that can be converted, sorted.
func Classes() []string { return slices.Sorted(maps.Keys(classes)) }

// Lookup returns the row for the first class that the table knows.
func Lookup(names []string) (*Architecture, string, error) {
	for _, name := range names {
		if a := classes[name]; a != nil {
			return a, name, nil
		}
	}
	return nil, "", fmt.Errorf("architecture %s is not known; the nearest are %s",
		strings.Join(names, ", "), strings.Join(nearest.Names(names[0], Classes(), 3), ", "))
}

// Model is one model on its way through the table.
type Model struct {
	Config *Config
	Class  string // the class that chose the row

	arch     *Architecture
	rope     Rope
	source   smallFiles
	options  Options
	prefixed bool // the checkpoint has one of the row's prefixes
	headed   bool // the checkpoint has a lm_head.weight
	vocab    *tokenizer.Vocabulary
	dimDepth int
}

// all needs a tensor in every block (or once, outside the blocks).
func all(*Model, int) bool { return true }

// token returns the id of a token by its text, -1 where there is none.
func (m *Model) token(text string) int64 {
	for i, t := range m.vocab.Tokens {
		if t.Text == text {
			return int64(i)
		}
	}
	return -1
}
