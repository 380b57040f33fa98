package ops

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// A program is a compiled graph with named inputs.
type program struct {
	name   string
	inputs []string
	roles  []spec.Role // of the taps among the outputs, in their order
	graph  *Graph
	device *Device
}

// A builder makes a program: build functions ask it for their inputs.
type builder struct {
	graph  *Graph
	inputs []string
	roles  []spec.Role
}

// input is the next parameter, a tensor of float32.
func (b *builder) input(name string, dims ...int) *Node {
	b.inputs = append(b.inputs, name)
	return Parameter(b.graph, name, shapes.Make(dtypes.Float32, dims...))
}

// integers is the next parameter, a tensor of int32.
func (b *builder) integers(name string, dims ...int) *Node {
	b.inputs = append(b.inputs, name)
	return Parameter(b.graph, name, shapes.Make(dtypes.Int32, dims...))
}

// bytes is the next parameter, a tensor of uint8.
func (b *builder) bytes(name string, dims ...int) *Node {
	b.inputs = append(b.inputs, name)
	return Parameter(b.graph, name, shapes.Make(dtypes.Uint8, dims...))
}

// program returns the compiled graph of a key, which says everything that
// build depends on.
func (d *Device) program(key string, build func(*builder) []*Node) (p *program, err error) {
	defer recovered(&err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.programs[key]; p != nil {
		return p, nil
	}
	name, _, _ := strings.Cut(key, " ")
	b := &builder{graph: NewGraph(d.backend, fmt.Sprintf("%s_%d", name, len(d.programs)))}
	outputs := build(b)
	if err := b.graph.Compile(outputs...); err != nil {
		return nil, fmt.Errorf("compile graph %s: %w", name, err)
	}
	p = &program{name, b.inputs, b.roles, b.graph, d}
	d.programs[key] = p
	return p, nil
}

// run computes a program. Inputs may hold more than the program takes. The
// donated ones are gone afterwards, even where it fails.
func (p *program) run(inputs map[string]compute.Buffer, donated ...string) (outputs []compute.Buffer, err error) {
	defer recovered(&err)
	buffers := make([]compute.Buffer, len(p.inputs))
	donate := make([]bool, len(p.inputs))
	for i, name := range p.inputs {
		b, ok := inputs[name]
		if !ok {
			return nil, fmt.Errorf("graph %s: no input %s", p.name, name)
		}
		buffers[i] = b
		if slices.Contains(donated, name) {
			// The Go backend takes the memory into its pool; elsewhere it is
			// freed as soon as the computation has ended.
			if donate[i] = p.device.shares; !donate[i] {
				defer free(b)
			}
		}
	}
	outputs, err = p.graph.Executable().Execute(buffers, donate, 0)
	if err != nil {
		return nil, fmt.Errorf("graph %s: %w", p.name, err)
	}
	return outputs, nil
}

// shapeOf is the shape of float32 values.
func shapeOf(dims ...int) shapes.Shape { return shapes.Make(dtypes.Float32, dims...) }

// upload copies values to a buffer of the device.
func (d *Device) upload(values any, dims ...int) (b compute.Buffer, err error) {
	defer recovered(&err)
	dtype := dtypes.Float32
	switch values.(type) {
	case []int32:
		dtype = dtypes.Int32
	case []byte:
		dtype = dtypes.Uint8
	}
	return d.backend.BufferFromFlatData(0, values, shapes.Make(dtype, dims...))
}

// download copies a buffer of float32 values from the device.
func download(b compute.Buffer) (values []float32, err error) {
	defer recovered(&err)
	shape, err := b.Shape()
	if err != nil {
		return nil, err
	}
	values = make([]float32, shape.Size())
	return values, b.ToFlatData(values)
}

// free gives buffers back; nil ones are passed over. What a device says about
// a buffer that it cannot free helps nobody.
func free(buffers ...compute.Buffer) {
	for _, b := range buffers {
		if b != nil {
			_ = b.Finalize()
		}
	}
}

// recovered, deferred, turns a panic of the graph library into an error.
func recovered(err *error) { *err = panicked(recover(), *err) }

// panicked is the error that a recovered value stands for.
func panicked(p any, err error) error {
	switch p := p.(type) {
	case nil:
		return err
	case error:
		return fmt.Errorf("graph library: %w", p)
	default:
		return fmt.Errorf("graph library: %v", p)
	}
}
