package safetensors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// The names that transformers gives to a checkpoint.
const (
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"

	suffix      = ".safetensors"
	indexSuffix = ".safetensors.index.json"
)

// readers is how many headers are read at a time: enough to hide the latency
// of a Hub, few enough to keep the buffers small.
const readers = 8

// Checkpoint is the open files of a model. It is safe for concurrent use.
type Checkpoint struct {
	Files []*File // sorted by name

	byName map[string]place
}

// place is a tensor's position: Files[file].Tensors[tensor].
type place struct{ file, tensor int32 }

// File is one open file of a checkpoint.
type File struct {
	Name string // in the file system of the checkpoint
	Size int64  // bytes
	*Header

	file   fs.File
	reader io.ReaderAt
}

// Data returns the data of one of the file's tensors.
func (f *File) Data(t Tensor) *io.SectionReader {
	return io.NewSectionReader(f.reader, f.DataOffset+t.Offset, t.Size)
}

// Open opens the checkpoint in the root folder of fsys, whose files must
// implement io.ReaderAt. It is, in this order of preference,
//
//   - model.safetensors,
//   - the shards that model.safetensors.index.json lists,
//   - the shards model-00001-of-0000N.safetensors without an index,
//   - the shards that the only *.safetensors.index.json lists,
//   - the only *.safetensors file.
//
// Subfolders are not looked at. Every header is read and checked, the index
// is checked against the headers, and a tensor may be in one file only. The
// error is fs.ErrNotExist where the folder has no such files.
func Open(ctx context.Context, fsys fs.FS) (*Checkpoint, error) {
	found, err := discover(fsys)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{}
	if err := c.open(ctx, fsys, found); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// OpenFile opens a single file of fsys as a checkpoint.
func OpenFile(ctx context.Context, fsys fs.FS, name string) (*Checkpoint, error) {
	c := &Checkpoint{}
	if err := c.open(ctx, fsys, &listing{names: []string{name}}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Find returns the tensor with the given name and the file that it is in.
func (c *Checkpoint) Find(name string) (*File, Tensor, bool) {
	p, ok := c.byName[name]
	if !ok {
		return nil, Tensor{}, false
	}
	f := c.Files[p.file]
	return f, f.Tensors[p.tensor], true
}

// All goes over the tensors, file by file in the order of their data.
func (c *Checkpoint) All() iter.Seq2[*File, Tensor] {
	return func(yield func(*File, Tensor) bool) {
		for _, f := range c.Files {
			for _, t := range f.Tensors {
				if !yield(f, t) {
					return
				}
			}
		}
	}
}

// Len returns the number of tensors.
func (c *Checkpoint) Len() int { return len(c.byName) }

// Close closes all files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.Files {
		if f != nil && f.file != nil {
			errs = append(errs, f.file.Close())
		}
	}
	c.Files, c.byName = nil, nil
	return errors.Join(errs...)
}

func (c *Checkpoint) open(ctx context.Context, fsys fs.FS, found *listing) error {
	if err := c.readHeaders(ctx, fsys, found.names); err != nil {
		return err
	}
	n := 0
	for _, f := range c.Files {
		n += len(f.Tensors)
	}
	c.byName = make(map[string]place, n)
	for i, f := range c.Files {
		for j, t := range f.Tensors {
			if p, dup := c.byName[t.Name]; dup {
				return fmt.Errorf("tensor %s is in both %s and %s", clip(t.Name), c.Files[p.file].Name, f.Name)
			}
			c.byName[t.Name] = place{int32(i), int32(j)}
		}
	}
	return found.check(c)
}

// readHeaders opens the files, several at a time. What was started is always
// finished, so that the error is that of the first bad file whatever the
// timing.
func (c *Checkpoint) readHeaders(ctx context.Context, fsys fs.FS, names []string) error {
	c.Files = make([]*File, len(names))
	errs := make([]error, len(names))
	var failed atomic.Bool
	var wg sync.WaitGroup
	slots := make(chan struct{}, readers)
	for i, name := range names {
		slots <- struct{}{}
		if failed.Load() || ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			if c.Files[i], errs[i] = openFile(fsys, name); errs[i] != nil {
				failed.Store(true)
			}
			<-slots
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func openFile(fsys fs.FS, name string) (f *File, err error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
			f, err = nil, fmt.Errorf("%s: %w", name, err)
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("is a folder")
	}
	r, ok := file.(io.ReaderAt)
	if !ok {
		return nil, errors.New("cannot be read at an offset")
	}
	h, err := ReadHeader(r, info.Size())
	if err != nil {
		return nil, err
	}
	return &File{Name: name, Size: info.Size(), Header: h, file: file, reader: r}, nil
}

// listing is what a checkpoint consists of.
type listing struct {
	names []string // sorted
	index string   // name of the index, or empty
	where map[string]string
}

// check compares the index with the tensors of the files.
func (l *listing) check(c *Checkpoint) error {
	if l.index == "" {
		return nil
	}
	for f, t := range c.All() {
		switch want, ok := l.where[t.Name]; {
		case !ok:
			return fmt.Errorf("%s: tensor %s is not listed in %s", f.Name, clip(t.Name), l.index)
		case want != f.Name:
			return fmt.Errorf("%s: tensor %s is in this file, but %s lists it in %s", f.Name, clip(t.Name), l.index, want)
		}
	}
	if len(l.where) == c.Len() {
		return nil
	}
	var missing []string
	for name := range l.where {
		if _, ok := c.byName[name]; !ok {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return fmt.Errorf("%s lists tensor %s in %s, which does not have it (%d such tensors)", l.index, clip(missing[0]), l.where[missing[0]], len(missing))
}

// discover finds the files of the checkpoint in the root folder of fsys.
func discover(fsys fs.FS) (*listing, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, err
	}
	var all, indexes []string
	for _, e := range entries {
		switch name := e.Name(); {
		case e.IsDir():
		case strings.HasSuffix(name, suffix):
			all = append(all, name)
		case strings.HasSuffix(name, indexSuffix):
			indexes = append(indexes, name)
		}
	}
	slices.Sort(all)
	if slices.Contains(indexes, indexName) {
		index, err := readIndex(fsys, indexName)
		if err != nil {
			return nil, err
		}
		// As transformers does, a whole model goes before an index of others.
		if !slices.Contains(all, singleName) || slices.Contains(index.names, singleName) {
			return index, index.complete(all)
		}
	}
	if slices.Contains(all, singleName) {
		return &listing{names: []string{singleName}}, nil
	}
	var shards []string
	for _, name := range all {
		if prefix, _, ok := shardName(name); ok && prefix == "model" {
			shards = append(shards, name)
		}
	}
	switch {
	case len(shards) > 0:
		return &listing{names: shards}, checkShards(shards)
	case len(indexes) == 1:
		index, err := readIndex(fsys, indexes[0])
		if err != nil {
			return nil, err
		}
		return index, index.complete(all)
	case len(all) == 1:
		return &listing{names: all}, nil
	case len(all) == 0:
		return nil, fmt.Errorf("no *%s file: %w", suffix, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%d %s files (%s, ...) but no %s that says which of them make the model", len(all), suffix, all[0], indexName)
}

var shardPattern = regexp.MustCompile(`^(.+)-\d{5}-of-(\d{5})\.safetensors$`)

// shardName takes "NAME-00001-of-00003.safetensors" apart.
func shardName(name string) (prefix, count string, ok bool) {
	m := shardPattern.FindStringSubmatch(name)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// checkShards checks that a set without an index has each of its parts.
func checkShards(names []string) error {
	_, count, _ := shardName(names[0])
	for i, name := range names {
		if want := fmt.Sprintf("model-%05d-of-%s%s", i+1, count, suffix); name != want {
			return fmt.Errorf("found %s where shard %s should be, and no %s that says which files make the model", name, want, indexName)
		}
	}
	if want := fmt.Sprintf("%05d", len(names)); count != want {
		return fmt.Errorf("shard model-%05d-of-%s%s is missing", len(names)+1, count, suffix)
	}
	return nil
}

// complete checks that the folder, whose files are all, sorted, has every file
// of the index, and no shard of the same set that the index does not know.
func (l *listing) complete(all []string) error {
	in := func(names []string, name string) bool {
		_, found := slices.BinarySearch(names, name)
		return found
	}
	for _, name := range l.names {
		if !strings.Contains(name, "/") && !in(all, name) {
			return fmt.Errorf("shard %s, which %s lists, is missing: fetch it again", name, l.index)
		}
	}
	prefix, count, ok := shardName(l.names[0])
	for _, name := range all {
		if p, c, shard := shardName(name); ok && shard && p == prefix && c == count && !in(l.names, name) {
			return fmt.Errorf("shard %s is not listed in %s", name, l.index)
		}
	}
	return nil
}

// readIndex reads an index: a JSON object whose weight_map says for every
// tensor in which file it is. Files are relative to the index's folder.
func readIndex(fsys fs.FS, name string) (*listing, error) {
	index, err := parseIndex(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return index, nil
}

func parseIndex(fsys fs.FS, name string) (*listing, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	r, ok := file.(io.ReaderAt)
	if !ok {
		return nil, errors.New("cannot be read at an offset")
	}
	if info.Size() > MaxHeader {
		return nil, fmt.Errorf("index of %d bytes is larger than %d", info.Size(), MaxHeader)
	}
	s := &scanner{r: r, end: info.Size(), block: firstBlock}
	index := &listing{index: name}
	shards := map[string]string{} // one copy of each file's name
	s.object(func(key []byte) {
		if string(key) != "weight_map" {
			s.skip(64)
			return
		}
		if index.where != nil {
			s.fail("weight_map is there twice")
			return
		}
		index.where = map[string]string{}
		s.object(func(key []byte) {
			tensor := string(key)
			text := s.string()
			if s.err != nil {
				return
			}
			shard, known := shards[string(text)]
			if !known {
				shard = string(text)
				if reason := checkShardPath(shard); reason != "" {
					s.fail("tensor %s is in %s, which %s", clip(tensor), clip(shard), reason)
					return
				}
				shards[shard] = shard
				index.names = append(index.names, shard)
			}
			if _, dup := index.where[tensor]; dup {
				s.fail("tensor %s is there twice", clip(tensor))
				return
			}
			index.where[tensor] = shard
		})
	})
	s.done()
	if s.err != nil {
		return nil, s.err
	}
	if len(index.names) == 0 {
		return nil, errors.New("no weight_map with tensors in it")
	}
	slices.Sort(index.names)
	return index, nil
}

// checkShardPath says why an index may not name the file, or "".
func checkShardPath(name string) string {
	switch {
	case !fs.ValidPath(name) || strings.ContainsAny(name, "\\:"):
		return "is not a path below the model's folder"
	case !strings.HasSuffix(name, suffix):
		return "is not a " + suffix + " file"
	}
	return ""
}
