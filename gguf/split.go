package gguf

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
)

// The keys of a file that is one part of a split model. The first part also
// holds all other metadata, the other parts have these three only. A split
// numbers its parts from 0 in KeySplitNo and from 1 in the files' names.
const (
	KeySplitNo      = "split.no"            // uint16
	KeySplitCount   = "split.count"         // uint16
	KeySplitTensors = "split.tensors.count" // int32, of all parts together
)

// SplitName returns the name of part no (from 0) of count:
// "m-00001-of-00003.gguf" for prefix "m".
func SplitName(prefix string, no, count int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", prefix, no+1, count)
}

var splitName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// ParseSplitName takes a name made by SplitName apart. ok is false where name
// is not one; a part number outside of 1 to count is none.
func ParseSplitName(name string) (prefix string, no, count int, ok bool) {
	m := splitName.FindStringSubmatch(name)
	if m == nil {
		return "", 0, 0, false
	}
	no, _ = strconv.Atoi(m[2])
	count, _ = strconv.Atoi(m[3])
	if no < 1 || no > count {
		return "", 0, 0, false
	}
	return m[1], no - 1, count, true
}

// SplitLimit says when a new part begins. A limit of 0 is none.
type SplitLimit struct {
	MaxBytes   int64 // of tensor data in a part, without padding
	MaxTensors int   // in a part
}

// Split distributes the tensors of h over parts, in their order, and returns
// the parts' headers with their layout done. As in upstream's converter
// (gguf_writer.py add_tensor_info, --split-max-size) a part is closed when the
// next tensor would take it over a limit, and a tensor that is larger than
// MaxBytes has a part of its own. Where one part is enough the result is h
// alone, without split.* keys. An alignment other than the default is
// repeated in every part, as each is read by itself.
func Split(h *Header, limit SplitLimit) ([]*Header, error) {
	if limit.MaxBytes < 0 || limit.MaxTensors < 0 {
		return nil, errors.New("split limits must not be negative")
	}
	var groups [][]TensorInfo
	var bytes int64
	for _, t := range h.Tensors {
		size, err := t.Size()
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", clip(t.Name), err)
		}
		last := len(groups) - 1
		full := last < 0 ||
			limit.MaxTensors > 0 && len(groups[last]) >= limit.MaxTensors ||
			limit.MaxBytes > 0 && size > limit.MaxBytes-bytes
		if full {
			groups, bytes = append(groups, nil), 0
			last++
		}
		groups[last] = append(groups[last], t)
		if size > math.MaxInt64-bytes {
			return nil, fmt.Errorf("tensor %s: size of the model overflows", clip(t.Name))
		}
		bytes += size
	}
	if len(groups) > math.MaxUint16 {
		return nil, fmt.Errorf("%d parts are more than a split can have (%d): choose a larger limit", len(groups), math.MaxUint16)
	}
	if len(groups) <= 1 {
		groups = [][]TensorInfo{append([]TensorInfo(nil), h.Tensors...)}
	}
	parts := make([]*Header, len(groups))
	for i, tensors := range groups {
		p := &Header{Version: h.Version, Tensors: tensors, Alignment: h.Alignment}
		if i == 0 {
			p.Metadata = append(p.Metadata, h.Metadata...)
		} else if a, ok := h.Metadata.Get(keyAlignment); ok {
			p.Metadata.Set(keyAlignment, a)
		}
		if len(groups) > 1 {
			p.Metadata.Set(KeySplitNo, uint16(i))
			p.Metadata.Set(KeySplitCount, uint16(len(groups)))
			p.Metadata.Set(KeySplitTensors, int32(len(h.Tensors)))
		}
		if _, err := p.Layout(); err != nil {
			return nil, fmt.Errorf("part %d of %d: %w", i+1, len(groups), err)
		}
		parts[i] = p
	}
	return parts, nil
}
