package calibrate

import (
	"errors"
	"fmt"
	"os"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/quantize"
)

// Keys of a state file, which is an importance matrix of the layers that are
// done.
const (
	keyInputs = "modelpipe.calibration.inputs" // string: digest of all that the sums depend on
	keyLayers = "modelpipe.calibration.layers" // []uint32: layers that are done
	keyOutput = "modelpipe.calibration.output" // bool: the head is done
)

// SaveState writes the layers that are done to path; it never leaves a part of
// a file there.
func (c *Calibration) SaveState(path, dataset string, chunks, ctx int) error {
	done := []uint32{}
	for i, l := range c.layers {
		if l.done {
			done = append(done, uint32(i))
		}
	}
	f := c.File(dataset, chunks, ctx)
	f.More = gguf.Metadata{{Key: keyInputs, Value: c.inputs}, {Key: keyLayers, Value: done}, {Key: keyOutput, Value: c.output && c.head.done}}
	return f.Save(path)
}

// ErrOtherInputs says that a state file belongs to another calibration.
var ErrOtherInputs = errors.New("it was made with another model, text, --ctx, --chunks or --process-output")

// LoadState takes in the layers of a state file that are not done yet. The
// file must be of the same inputs.
func (c *Calibration) LoadState(path string) error {
	if err := c.loadState(path); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (c *Calibration) loadState(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := gguf.ReadHeader(f, info.Size())
	if err != nil {
		return err
	}
	inputs, err := h.Metadata.String(keyInputs)
	if err != nil {
		return fmt.Errorf("not the state of a calibration: %w", err)
	}
	if inputs != c.inputs {
		return ErrOtherInputs
	}
	done, err := gguf.Value[[]uint32](h.Metadata, keyLayers)
	if err != nil {
		return err
	}
	output, err := h.Metadata.Bool(keyOutput)
	if err != nil {
		return err
	}
	m, err := quantize.ReadImatrix(f, info.Size())
	if err != nil {
		return err
	}
	of := c.slots()
	read := map[int]map[string]*entry{}
	for _, name := range m.Names() {
		s, _, err := m.Sums(name)
		if err != nil {
			return err
		}
		t, ok := of[name]
		if !ok {
			return fmt.Errorf("%s is no matrix of the model", name)
		}
		if len(s.Sums) != t.sums || len(s.Counts) != t.counts {
			return fmt.Errorf("%s has %d sums and %d counts: want %d and %d", name, len(s.Sums), len(s.Counts), t.sums, t.counts)
		}
		e := &entry{sums: make([]float64, len(s.Sums)), counts: make([]float64, len(s.Counts))}
		for i, v := range s.Sums {
			e.sums[i] = float64(v)
		}
		for i, v := range s.Counts {
			e.counts[i] = float64(v)
		}
		if read[t.layer] == nil {
			read[t.layer] = map[string]*entry{}
		}
		read[t.layer][name] = e
	}
	take := func(i int) error {
		l := c.at(i)
		if l.done {
			return nil
		}
		l.entries = read[i]
		return c.finish(i)
	}
	for _, i := range done {
		if int64(i) >= int64(len(c.layers)) {
			return fmt.Errorf("metadata %q has layer %d: the model has %d", keyLayers, i, len(c.layers))
		}
		if err := take(int(i)); err != nil {
			return err
		}
	}
	if output && c.output {
		return take(spec.None)
	}
	return nil
}

// size is what an entry of a tensor has.
type size struct{ layer, sums, counts int }

// slots says where the entries of the model's tensors belong.
func (c *Calibration) slots() map[string]size {
	of := map[string]size{}
	for s, w := range c.model.Weights {
		name := w.Names[0]
		t, ok := c.tensors[name]
		if _, twice := of[name]; twice || !ok {
			continue
		}
		n := size{s.Layer, int(t.Shape[0]), 1}
		for _, d := range t.Shape[min(2, len(t.Shape)):] {
			n.sums *= int(d)
			if s.Expert != spec.None {
				n.counts *= int(d)
			}
		}
		of[name] = n
	}
	return of
}
