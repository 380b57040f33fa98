package budget

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/wholefile"
	"github.com/modelpipe/modelpipe/quantize"
)

// FileSchema names the form of a losses file.
const FileSchema = "modelpipe.losses/1"

// File is measured losses with what they depend on.
type File struct {
	Schema  string `json:"schema"`
	Model   string `json:"model"`             // digest of the model's tensors: see docs/budget.md
	Imatrix string `json:"imatrix,omitempty"` // digest of the importance matrix that weighed the encoders
	Text    string `json:"text"`              // what was measured on, for people
	Chunks  int    `json:"chunks"`
	Ctx     int    `json:"ctx"`

	// Losses is in nats per prediction, by tensor and type.
	Losses map[string]map[string]float64 `json:"losses"`
}

// NewFile holds losses.
func NewFile(l quantize.Losses) *File {
	f := &File{Schema: FileSchema, Losses: map[string]map[string]float64{}}
	for name, row := range l {
		f.Losses[name] = map[string]float64{}
		for t, loss := range row {
			f.Losses[name][t.String()] = loss
		}
	}
	return f
}

// maxFile bounds a losses file: a million tensors are far more than any model
// has.
const maxFile = 256 << 20

// ReadFile reads a losses file, strictly.
func ReadFile(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d := json.NewDecoder(io.LimitReader(r, maxFile))
	d.DisallowUnknownFields()
	var f File
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%s: more than one value", path)
	}
	if f.Schema != FileSchema {
		return nil, fmt.Errorf("%s: schema %q: want %s", path, f.Schema, FileSchema)
	}
	if _, err := f.Table(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &f, nil
}

// Table is the losses by type.
func (f *File) Table() (quantize.Losses, error) {
	l := quantize.Losses{}
	for name, row := range f.Losses {
		l[name] = map[gguf.Type]float64{}
		for typ, loss := range row {
			t, err := gguf.ParseType(typ)
			if err != nil {
				return nil, fmt.Errorf("tensor %s: %w", name, err)
			}
			if _, twice := l[name][t]; twice {
				return nil, fmt.Errorf("tensor %s: %s is there twice", name, t)
			}
			if loss < 0 || math.IsNaN(loss) || math.IsInf(loss, 0) {
				return nil, fmt.Errorf("tensor %s: %s loses %g: want a number of nats", name, typ, loss)
			}
			l[name][t] = loss
		}
	}
	return l, nil
}

// Save writes the file whole or not at all.
func (f *File) Save(path string) error {
	return wholefile.Write(path, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(f)
	})
}
