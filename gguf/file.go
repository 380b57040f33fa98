package gguf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// File is an open model: a single GGUF file, or all parts of a split as if
// they were one. It is safe for concurrent use.
type File struct {
	// Header describes the whole model: the metadata of the first part
	// without the split.* keys, and the tensors of all parts in order, with
	// the offsets that a single file would have. Locate says where they are.
	Header *Header
	// Parts has one element for a file that is not split.
	Parts []Part

	tensors []location
	index   map[string]int
}

// Part is one file of a model.
type Part struct {
	Name       string // in the file system that it was opened from
	Size       int64  // bytes
	Header     *Header
	DataOffset int64 // in bytes from the start of the file
	file       fs.File
}

// location is where a tensor's data is: in bytes from the start of a part.
type location struct {
	part         int
	offset, size int64
}

// Open opens the model at a path of the local file system, which may be any
// part of a split.
func Open(name string) (*File, error) {
	dir, base := filepath.Split(name)
	if dir == "" {
		dir = "."
	}
	return OpenFS(os.DirFS(dir), base)
}

// OpenFS opens the model with the given name in fsys, whose files must
// implement io.ReaderAt. Where the file is part of a split the other parts
// are opened too, next to it and under the names that SplitName gives; it is
// an error where one is missing, or is of another split.
func OpenFS(fsys fs.FS, name string) (*File, error) {
	f := &File{index: map[string]int{}}
	if err := f.open(fsys, name); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) open(fsys fs.FS, name string) error {
	dir, base := path.Split(name)
	prefix, named, names, isSplitName := ParseSplitName(base)
	first, err := openPart(fsys, name)
	if err != nil {
		return err
	}
	f.Parts = append(f.Parts, first)
	no, count := first.Header.split()
	switch {
	case count <= 1 && (!isSplitName || names == 1):
		return f.merge()
	case count <= 1:
		return fmt.Errorf("%s: the name says part %d of %d, but metadata %q does not", name, named+1, names, KeySplitCount)
	case !isSplitName || named != no || names != count:
		return fmt.Errorf("%s: metadata says part %d of %d: rename the file to %s", name, no+1, count, SplitName("NAME", no, count))
	}
	parts := make([]Part, 0, min(count, 1024))
	for i := range count {
		if i == no {
			parts = append(parts, first)
			continue
		}
		p, err := openPart(fsys, dir+SplitName(prefix, i, count))
		if err != nil {
			f.Parts = append(parts, first)
			return fmt.Errorf("part %d of %d: %w", i+1, count, err)
		}
		parts = append(parts, p)
	}
	f.Parts = parts
	return f.merge()
}

func openPart(fsys fs.FS, name string) (p Part, err error) {
	file, err := fsys.Open(name)
	if err != nil {
		return p, err
	}
	defer func() {
		if err != nil {
			file.Close()
			err = fmt.Errorf("%s: %w", name, err)
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return p, err
	}
	if info.IsDir() {
		return p, errors.New("is a folder")
	}
	r, ok := file.(io.ReaderAt)
	if !ok {
		return p, errors.New("cannot be read at an offset")
	}
	p = Part{Name: name, Size: info.Size(), file: file}
	if p.Header, err = ReadHeader(r, p.Size); err != nil {
		return p, err
	}
	p.DataOffset, err = p.Header.DataOffset()
	return p, err
}

// split returns the split.no and split.count of a header, whose types were
// checked when it was read; 0 and 0 where there are none.
func (h *Header) split() (no, count int) {
	n, _ := Value[uint16](h.Metadata, KeySplitNo)
	c, _ := Value[uint16](h.Metadata, KeySplitCount)
	return int(n), int(c)
}

// merge checks that the parts belong together and makes the header of the
// whole.
func (f *File) merge() error {
	first := f.Parts[0].Header
	h := &Header{Version: first.Version, Alignment: first.Alignment}
	for _, kv := range first.Metadata {
		switch kv.Key {
		case KeySplitNo, KeySplitCount, KeySplitTensors:
		default:
			h.Metadata = append(h.Metadata, kv)
		}
	}
	for i, p := range f.Parts {
		if no, count := p.Header.split(); len(f.Parts) > 1 && (no != i || count != len(f.Parts)) {
			return fmt.Errorf("%s: metadata says part %d of %d, want part %d of %d", p.Name, no+1, count, i+1, len(f.Parts))
		}
		for _, t := range p.Header.Tensors {
			if other, dup := f.index[t.Name]; dup {
				return fmt.Errorf("%s: tensor %s is also in %s", p.Name, clip(t.Name), f.Parts[f.tensors[other].part].Name)
			}
			size, err := t.Size()
			if err != nil {
				return fmt.Errorf("%s: tensor %s: %w", p.Name, clip(t.Name), err)
			}
			f.index[t.Name] = len(h.Tensors)
			f.tensors = append(f.tensors, location{i, p.DataOffset + t.Offset, size})
			h.Tensors = append(h.Tensors, t)
		}
	}
	for _, p := range f.Parts {
		if n, err := Value[int32](p.Header.Metadata, KeySplitTensors); err == nil && int(n) != len(h.Tensors) {
			return fmt.Errorf("%s: metadata %q says %d tensors, but all parts have %d", p.Name, KeySplitTensors, n, len(h.Tensors))
		}
	}
	if _, err := h.Layout(); err != nil {
		return err
	}
	f.Header = h
	return nil
}

// Find returns the index in Header.Tensors of the tensor with the given name.
func (f *File) Find(name string) (int, bool) {
	i, ok := f.index[name]
	return i, ok
}

// Locate says where the data of Header.Tensors[i] is: size bytes at offset
// from the start of Parts[part].
func (f *File) Locate(i int) (part int, offset, size int64) {
	l := f.tensors[i]
	return l.part, l.offset, l.size
}

// Data returns the data of Header.Tensors[i], without padding.
func (f *File) Data(i int) *io.SectionReader {
	l := f.tensors[i]
	// openPart has checked that the file is a ReaderAt.
	return io.NewSectionReader(f.Parts[l.part].file.(io.ReaderAt), l.offset, l.size)
}

// Close closes all parts.
func (f *File) Close() error {
	var errs []error
	for _, p := range f.Parts {
		errs = append(errs, p.file.Close())
	}
	f.Parts = nil
	return errors.Join(errs...)
}
