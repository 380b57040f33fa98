package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/modelpipe/modelpipe/publish"
)

// A catalog lies in a store as a tree. Each part, a Catalog with some of the
// models, is an object that is named by its digest; an Index holds the digests
// of the parts, or of further indices that do. The root index of a channel is
// the one object whose name does not say what it holds (IndexName): who trusts
// it can verify everything below it.
//
// The first bits of the SHA-256 of a model's slug say in which part it is. The
// number of bits depends on the number of models alone, so that equal catalogs
// have equal bytes:
//
//	models      bits  parts   levels of indices
//	      ..32     0      1   1
//	     ..512     4     16   1
//	    ..8192     8    256   2 (16 x 16)
//	  ..131072    12   4096   2 (64 x 64)
//	        ..    16  65536   2 (256 x 256)
//
// So a lookup reads at most three objects, and the change of one model writes
// three. An alias is in the part that its own digest says, with the slug.

// IndexSchemaID identifies the version of the JSON form of an Index.
const IndexSchemaID = "https://github.com/modelpipe/modelpipe/schema/index/1.0.0/index.schema.json"

// Index is a node of the tree.
type Index struct {
	Schema  string `json:"$schema" schema:"const=https://github.com/modelpipe/modelpipe/schema/index/1.0.0/index.schema.json" doc:"version of this format"`
	Channel string `json:"channel" schema:"pattern=name" doc:"the channel"`
	Models  int64  `json:"models" schema:"min=0" doc:"number of models below"`
	Bits    int64  `json:"bits" schema:"min=0;max=16" doc:"leading bits of a name's SHA-256 that say in which part it is"`
	Prefix  string `json:"prefix,omitempty" schema:"maxLength=8" doc:"bits that led here from the root, as 0 and 1"`
	Nodes   []Ref  `json:"nodes" schema:"minItems=1" doc:"what is below, by the next bits"`
}

// Ref refers to an object of the tree.
type Ref struct {
	SHA256   Digest `json:"sha256" schema:"pattern=digest" doc:"of the document"`
	Size     int64  `json:"size" schema:"min=1" doc:"bytes of the document"`
	Encoding string `json:"encoding,omitempty" schema:"enum=zstd" doc:"how the object holds the document; left out: as it is"`
	Models   int64  `json:"models" schema:"min=0" doc:"number of models below"`
}

// IndexName is the name of the root index of a channel in a store.
func IndexName(channel string) string { return "channels/" + channel + ".json" }

// objectPrefix is what names of the tree's objects begin with.
const objectPrefix = "objects/"

// Name is the name of the object in a store.
func (r Ref) Name() string { return r.name(r.Encoding) }

func (r Ref) name(encoding string) string {
	hex := strings.TrimPrefix(string(r.SHA256), "sha256:")
	name := objectPrefix + hex[:2] + "/" + hex + ".json"
	if encoding == "zstd" {
		name += ".zst"
	}
	return name
}

// Bounds of the tree's documents.
const (
	MaxIndex = 1 << 20  // bytes of an index
	maxPart  = 64 << 20 // bytes of a part
	// compressFrom is the size from which on documents are compressed.
	compressFrom = 16 << 10
)

// treeBits is the number of bits for so many models.
func treeBits(models int) int64 {
	for bits := int64(0); bits < 16; bits += 4 {
		if models <= 32<<bits {
			return bits
		}
	}
	return 16
}

// rootBits is how many of the bits the root index takes.
func rootBits(bits int64) int64 {
	if bits <= 4 {
		return bits
	}
	return bits / 2
}

// partOf is the number of the part that holds a name.
func partOf(name string, bits int64) int {
	sum := sha256.Sum256([]byte(name))
	return int(uint64(binary.BigEndian.Uint32(sum[:])) >> (32 - bits))
}

func binaryPrefix(n int, bits int64) string { return fmt.Sprintf("%0*b", int(bits), n) }

var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
})

// decompress returns the document of size bytes.
func decompress(data []byte, size int64) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(size, 1<<10))))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(data, make([]byte, 0, size))
}

// treeWriter writes the tree of a channel.
type treeWriter struct {
	store   publish.Store
	channel string
	plain   bool            // write compressed documents also as they are
	there   map[string]bool // names of the objects that the store has
	old     *Reader         // what is live, or nil

	mu      sync.Mutex
	objects int   // that were written
	bytes   int64 // of them
}

// put writes a document unless the store has it.
func (w *treeWriter) put(ctx context.Context, doc any, models int64) (Ref, error) {
	data, err := Encode(doc)
	if err != nil {
		return Ref{}, err
	}
	r := Ref{SHA256: DigestOf(data), Size: int64(len(data)), Models: models}
	if len(data) < compressFrom {
		return r, w.object(ctx, r.Name(), data)
	}
	r.Encoding = "zstd"
	if w.plain && !w.has(r.Name()) {
		if err := w.object(ctx, r.name(""), data); err != nil {
			return Ref{}, err
		}
	}
	if w.has(r.Name()) {
		return r, nil
	}
	e, err := zstdEncoder()
	if err != nil {
		return Ref{}, err
	}
	return r, w.object(ctx, r.Name(), e.EncodeAll(data, nil))
}

// recall opens the catalog that is live in the store, and unless everything is
// to be written anew notes what it refers to. A catalog that cannot be read is
// written whole.
func (w *treeWriter) recall(ctx context.Context, rewrite bool) {
	r, err := OpenChannel(ctx, FromStore(w.store), w.channel)
	if err != nil {
		return
	}
	w.old = r
	if rewrite {
		return
	}
	for ref, err := range r.Refs(ctx) {
		if err != nil {
			return
		}
		w.there[ref.Name()] = true
	}
}

func (w *treeWriter) has(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.there[name]
}

func (w *treeWriter) object(ctx context.Context, name string, data []byte) error {
	if w.has(name) {
		return nil
	}
	if _, err := w.store.Put(ctx, name, data, publish.Any); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.there[name] = true
	w.objects++
	w.bytes += int64(len(data))
	return nil
}

// write writes the tree: part returns the models of part i in the order of
// their slugs, aliases are those of the whole channel. It returns the root
// index, which is not written yet. Workers parts are made at once.
func (w *treeWriter) write(ctx context.Context, bits int64, workers int, aliases map[string]string, part func(ctx context.Context, i int) ([]Model, error)) (*Index, error) {
	byPart := map[int]map[string]string{}
	for alias, slug := range aliases {
		i := partOf(alias, bits)
		if partOf(slug, bits) == i {
			continue // it is with its model
		}
		if byPart[i] == nil {
			byPart[i] = map[string]string{}
		}
		byPart[i][alias] = slug
	}
	refs := make([]Ref, 1<<bits)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var group sync.WaitGroup
	for range max(workers, 1) {
		group.Go(func() {
			for i := range next {
				models, err := part(ctx, i)
				if err == nil {
					if models == nil {
						models = []Model{}
					}
					refs[i], err = w.put(ctx, &Catalog{Schema: SchemaID, Channel: w.channel, Models: models, Aliases: byPart[i]}, int64(len(models)))
				}
				if err == nil && refs[i].Size > maxPart {
					err = fmt.Errorf("part %d of channel %s has %d bytes, want at most %d", i, w.channel, refs[i].Size, maxPart)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for i := range refs {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	top := rootBits(bits)
	if top == bits {
		return w.index(bits, "", refs), nil
	}
	groups := make([]Ref, 1<<top)
	each := 1 << (bits - top)
	for g := range groups {
		n := w.index(bits, binaryPrefix(g, top), refs[g*each:(g+1)*each])
		var err error
		if groups[g], err = w.put(ctx, n, n.Models); err != nil {
			return nil, err
		}
	}
	return w.index(bits, "", groups), nil
}

func (w *treeWriter) index(bits int64, prefix string, nodes []Ref) *Index {
	x := &Index{Schema: IndexSchemaID, Channel: w.channel, Bits: bits, Prefix: prefix, Nodes: nodes}
	for _, n := range nodes {
		x.Models += n.Models
	}
	return x
}

// DecodeIndex reads an Index.
func DecodeIndex(data []byte) (*Index, error) {
	var x Index
	if err := decodeStrict(data, &x, IndexSchemaID); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	top := rootBits(x.Bits)
	want := top
	if x.Prefix != "" {
		want = x.Bits - top
	}
	if x.Bits%4 != 0 || len(x.Nodes) != 1<<want {
		return nil, fmt.Errorf("index: has %d nodes for %d bits", len(x.Nodes), x.Bits)
	}
	models := int64(0)
	for i, n := range x.Nodes {
		most := int64(maxPart)
		if x.Prefix == "" && top < x.Bits {
			most = MaxIndex
		}
		if n.Size > most {
			return nil, fmt.Errorf("index: nodes[%d].size is %d, want at most %d", i, n.Size, most)
		}
		if n.Models > math.MaxInt64-models {
			return nil, errors.New("index: numbers of models overflow")
		}
		models += n.Models
	}
	if models != x.Models {
		return nil, fmt.Errorf("index: has %d models, its nodes %d", x.Models, models)
	}
	return &x, nil
}

// Reader reads a catalog below a root index that is trusted. What it returns
// was verified against that index. It keeps the indices that it has read; it
// may be used by several goroutines at once.
type Reader struct {
	root  *Index
	fetch Fetcher

	mu     sync.Mutex
	groups map[int]*Index
}

// NewReader returns a Reader of the catalog with the root index.
func NewReader(root []byte, f Fetcher) (*Reader, error) {
	x, err := DecodeIndex(root)
	if err != nil {
		return nil, err
	}
	if x.Prefix != "" {
		return nil, fmt.Errorf("index: is of the prefix %s, not a root", quoted(x.Prefix))
	}
	return &Reader{root: x, fetch: f, groups: map[int]*Index{}}, nil
}

// OpenChannel reads the catalog of a channel without verifying that somebody
// has signed it: for who has made it, and for tools on the same machine.
func OpenChannel(ctx context.Context, f Fetcher, channel string) (*Reader, error) {
	if err := publish.CheckName(channel); err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	data, err := f.Fetch(ctx, IndexName(channel), MaxIndex)
	if err != nil {
		return nil, fmt.Errorf("channel %s: %w", channel, err)
	}
	r, err := NewReader(data, f)
	if err != nil {
		return nil, fmt.Errorf("channel %s: %w", channel, err)
	}
	if r.root.Channel != channel {
		return nil, fmt.Errorf("channel %s: the index is of channel %s", channel, r.root.Channel)
	}
	return r, nil
}

// Index returns the root index.
func (r *Reader) Index() *Index { return r.root }

// ErrNoModel says that a catalog has no model of a name.
var ErrNoModel = errors.New("no such model")

// Lookup returns the model with a slug, which reads at most three objects
// counting the root index, or with an alias, which reads two more.
func (r *Reader) Lookup(ctx context.Context, name string) (*Model, error) {
	for range 2 {
		part, err := r.part(ctx, partOf(name, r.root.Bits))
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", quoted(name), err)
		}
		if m, ok := part.Model(name); ok {
			return m, nil
		}
		slug, ok := part.Aliases[name]
		if !ok {
			break
		}
		name = slug
	}
	return nil, fmt.Errorf("look up %s in channel %s: %w", quoted(name), r.root.Channel, ErrNoModel)
}

// Parts returns the parts of the catalog in the order of their numbers.
func (r *Reader) Parts(ctx context.Context) iter.Seq2[*Catalog, error] {
	return func(yield func(*Catalog, error) bool) {
		for i := range 1 << r.root.Bits {
			ref, err := r.ref(ctx, i)
			if err == nil && ref.Models == 0 {
				continue
			}
			var part *Catalog
			if err == nil {
				part, err = r.read(ctx, ref)
			}
			if !yield(part, err) || err != nil {
				return
			}
		}
	}
}

// Models yields the models in the order of their parts, one at a time.
func (r *Reader) Models(ctx context.Context) iter.Seq2[*Model, error] {
	return func(yield func(*Model, error) bool) {
		for part, err := range r.Parts(ctx) {
			if err != nil {
				yield(nil, fmt.Errorf("channel %s: %w", r.root.Channel, err))
				return
			}
			for i := range part.Models {
				if !yield(&part.Models[i], nil) {
					return
				}
			}
		}
	}
}

// Catalog returns the whole catalog as one document, ordered by slug. It is an
// error where it has more than most models.
func (r *Reader) Catalog(ctx context.Context, most int64) (*Catalog, error) {
	if r.root.Models > most {
		return nil, fmt.Errorf("channel %s has %d models, want at most %d at once", r.root.Channel, r.root.Models, most)
	}
	out := &Catalog{Schema: SchemaID, Channel: r.root.Channel, Models: []Model{}}
	for part, err := range r.Parts(ctx) {
		if err != nil {
			return nil, err
		}
		out.Models = append(out.Models, part.Models...)
	}
	slices.SortFunc(out.Models, func(a, b Model) int { return strings.Compare(a.Slug, b.Slug) })
	return out, nil
}

// Refs returns every object of the tree below the root. A Ref whose document
// is an index comes before what is below it.
func (r *Reader) Refs(ctx context.Context) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		if rootBits(r.root.Bits) == r.root.Bits {
			for _, n := range r.root.Nodes {
				if !yield(n, nil) {
					return
				}
			}
			return
		}
		for g, n := range r.root.Nodes {
			group, err := r.group(ctx, g)
			if !yield(n, err) || err != nil {
				return
			}
			for _, n := range group.Nodes {
				if !yield(n, nil) {
					return
				}
			}
		}
	}
}

// Fetch returns the document of an object of the tree, verified.
func (r *Reader) Fetch(ctx context.Context, ref Ref) ([]byte, error) {
	limit := ref.Size
	if ref.Encoding == "zstd" {
		limit += 1 << 10 // what does not compress grows by its frame
	}
	name := ref.Name()
	data, err := r.fetch.Fetch(ctx, name, limit)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	if ref.Encoding == "zstd" {
		if data, err = decompress(data, ref.Size); err != nil {
			return nil, fmt.Errorf("object %s: %w", name, err)
		}
	}
	if got := DigestOf(data); got != ref.SHA256 || int64(len(data)) != ref.Size {
		return nil, fmt.Errorf("object %s: has %d bytes with digest %s, want %d with %s", name, len(data), got, ref.Size, ref.SHA256)
	}
	return data, nil
}

// ref finds the Ref of a part.
func (r *Reader) ref(ctx context.Context, i int) (Ref, error) {
	below := r.root.Bits - rootBits(r.root.Bits)
	if below == 0 {
		return r.root.Nodes[i], nil
	}
	group, err := r.group(ctx, i>>below)
	if err != nil {
		return Ref{}, err
	}
	return group.Nodes[i&(1<<below-1)], nil
}

// group returns an index below the root.
func (r *Reader) group(ctx context.Context, g int) (*Index, error) {
	r.mu.Lock()
	x := r.groups[g]
	r.mu.Unlock()
	if x != nil {
		return x, nil
	}
	ref := r.root.Nodes[g]
	data, err := r.Fetch(ctx, ref)
	if err != nil {
		return nil, err
	}
	if x, err = DecodeIndex(data); err != nil {
		return nil, fmt.Errorf("object %s: %w", ref.Name(), err)
	}
	if want := binaryPrefix(g, rootBits(r.root.Bits)); x.Prefix != want || x.Bits != r.root.Bits || x.Channel != r.root.Channel || x.Models != ref.Models {
		return nil, fmt.Errorf("object %s: is not the index of prefix %s in channel %s", ref.Name(), want, r.root.Channel)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[g] = x
	return x, nil
}

func (r *Reader) part(ctx context.Context, i int) (*Catalog, error) {
	ref, err := r.ref(ctx, i)
	if err != nil {
		return nil, err
	}
	return r.read(ctx, ref)
}

func (r *Reader) read(ctx context.Context, ref Ref) (*Catalog, error) {
	data, err := r.Fetch(ctx, ref)
	if err != nil {
		return nil, err
	}
	c, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", ref.Name(), err)
	}
	if c.Channel != r.root.Channel || int64(len(c.Models)) != ref.Models {
		return nil, fmt.Errorf("object %s: has %d models of channel %s, want %d of %s", ref.Name(), len(c.Models), c.Channel, ref.Models, r.root.Channel)
	}
	return c, nil
}

// Changed returns the parts of r that old does not have, and the slugs that
// are in those parts of old which r does not have: what a follower of the
// catalog must look at. Equal branches are not read.
func (r *Reader) Changed(ctx context.Context, old *Reader) (parts []*Catalog, gone []string, err error) {
	if old.root.Channel != r.root.Channel {
		return nil, nil, fmt.Errorf("catalogs of the channels %s and %s", old.root.Channel, r.root.Channel)
	}
	slugs := map[string]bool{}
	collect := func(a, b *Reader, take func(*Catalog)) error {
		have := map[Digest]bool{}
		if a.root.Bits != b.root.Bits {
			for ref, err := range b.Refs(ctx) {
				if err != nil {
					return err
				}
				have[ref.SHA256] = true
			}
		}
		for i := range 1 << a.root.Bits {
			if below := a.root.Bits - rootBits(a.root.Bits); below > 0 && a.root.Bits == b.root.Bits && a.root.Nodes[i>>below].SHA256 == b.root.Nodes[i>>below].SHA256 {
				continue
			}
			ref, err := a.ref(ctx, i)
			if err != nil {
				return err
			}
			same := have[ref.SHA256]
			if a.root.Bits == b.root.Bits {
				other, err := b.ref(ctx, i)
				if err != nil {
					return err
				}
				same = other.SHA256 == ref.SHA256
			}
			if same {
				continue
			}
			part, err := a.read(ctx, ref)
			if err != nil {
				return err
			}
			take(part)
		}
		return nil
	}
	if err := collect(r, old, func(c *Catalog) {
		parts = append(parts, c)
		for _, m := range c.Models {
			slugs[m.Slug] = true
		}
	}); err != nil {
		return nil, nil, err
	}
	missing := map[string]bool{}
	if err := collect(old, r, func(c *Catalog) {
		for _, m := range c.Models {
			if !slugs[m.Slug] {
				missing[m.Slug] = true
			}
		}
	}); err != nil {
		return nil, nil, err
	}
	return parts, slices.Sorted(maps.Keys(missing)), nil
}

// errNotThere says whether an object is not there.
func errNotThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }
