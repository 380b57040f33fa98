package safetensors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// shard renders a file of U8 tensors of 4 bytes; each holds its own name.
func shard(t testing.TB, names ...string) *fstest.MapFile {
	h := &Header{}
	for _, name := range names {
		h.Tensors = append(h.Tensors, Tensor{Name: name, DType: U8, Shape: []int64{4}})
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b = append(b, (name + "    ")[:4]...)
	}
	return &fstest.MapFile{Data: b}
}

// index renders an index of "tensor file" pairs.
func index(t testing.TB, pairs ...string) *fstest.MapFile {
	where := map[string]string{}
	for _, p := range pairs {
		tensor, file, _ := strings.Cut(p, " ")
		where[tensor] = file
	}
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 1.5e3, "x": []any{nil, true, "s"}}, "weight_map": where})
	if err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b}
}

const (
	one = "model-00001-of-00002.safetensors"
	two = "model-00002-of-00002.safetensors"
)

// sharded is a checkpoint of tensors a, b and c in two files.
func sharded(t testing.TB) fstest.MapFS {
	return fstest.MapFS{
		indexName:     index(t, "a "+one, "b "+one, "c "+two),
		one:           shard(t, "a", "b"),
		two:           shard(t, "c"),
		"config.json": {Data: []byte("{}")},
	}
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		name string
		fsys fstest.MapFS
		want string // files and their tensors
	}{
		{"single", fstest.MapFS{singleName: shard(t, "a")}, "model.safetensors:a"},
		{"sharded", sharded(t), one + ":a,b " + two + ":c"},
		{"consolidated beside shards", with(sharded(t), "consolidated.safetensors", shard(t, "x")), one + ":a,b " + two + ":c"},
		{"whole model beside a stale index", with(sharded(t), singleName, shard(t, "a")), "model.safetensors:a"},
		{"index of a single file", fstest.MapFS{singleName: shard(t, "a"), indexName: index(t, "a "+singleName)}, "model.safetensors:a"},
		{"shards without an index", without(sharded(t), indexName), one + ":a,b " + two + ":c"},
		{"another name", fstest.MapFS{"weights.safetensors": shard(t, "a")}, "weights.safetensors:a"},
		{"another index", fstest.MapFS{"pytorch.safetensors.index.json": index(t, "a x.safetensors", "b y.safetensors"), "x.safetensors": shard(t, "a"), "y.safetensors": shard(t, "b")}, "x.safetensors:a y.safetensors:b"},
		{"files in subfolders", fstest.MapFS{singleName: shard(t, "a"), "onnx/model.safetensors": shard(t, "x")}, "model.safetensors:a"},
		{"shards in a subfolder by index", fstest.MapFS{indexName: index(t, "a sub/x.safetensors"), "sub/x.safetensors": shard(t, "a")}, "sub/x.safetensors:a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ck, err := Open(t.Context(), c.fsys)
			if err != nil {
				t.Fatal(err)
			}
			defer ck.Close()
			var got []string
			for _, f := range ck.Files {
				var names []string
				for _, ti := range f.Tensors {
					names = append(names, ti.Name)
				}
				got = append(got, f.Name+":"+strings.Join(names, ","))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
			n := 0
			for f, ti := range ck.All() {
				b, err := io.ReadAll(f.Data(ti))
				if err != nil || strings.TrimRight(string(b), " ") != ti.Name {
					t.Errorf("tensor %s holds %q, %v", ti.Name, b, err)
				}
				if file, found, ok := ck.Find(ti.Name); !ok || file != f || found.Name != ti.Name {
					t.Errorf("tensor %s is not found", ti.Name)
				}
				n++
			}
			if _, _, ok := ck.Find("nope"); ok || n != ck.Len() {
				t.Errorf("%d tensors, Len is %d", n, ck.Len())
			}
		})
	}
}

func with(fsys fstest.MapFS, name string, f *fstest.MapFile) fstest.MapFS {
	fsys[name] = f
	return fsys
}

func without(fsys fstest.MapFS, name string) fstest.MapFS {
	delete(fsys, name)
	return fsys
}

func TestBadCheckpoints(t *testing.T) {
	truncated := shard(t, "c")
	truncated.Data = truncated.Data[:len(truncated.Data)-1]
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	three := []string{"a-00001-of-00001.safetensors", "b.safetensors", "c.safetensors"}
	for _, c := range []struct {
		name string
		fsys fstest.MapFS
		want string
	}{
		{"missing shard", without(sharded(t), two), "shard " + two + ", which model.safetensors.index.json lists, is missing"},
		{"missing shard in a subfolder", with(sharded(t), indexName, index(t, "a "+one, "b "+one, "c sub/c.safetensors")), "shard " + two + " is not listed"},
		{"missing subfolder", without(with(sharded(t), indexName, index(t, "a "+one, "b "+one, "c sub/c.safetensors")), two), "open sub/c.safetensors: file does not exist"},
		{"missing shard, no index", without(without(sharded(t), indexName), one), "found " + two + " where shard " + one + " should be"},
		{"missing last shard, no index", without(without(sharded(t), indexName), two), "shard " + two + " is missing"},
		{"tensor not in the index", with(sharded(t), two, shard(t, "c", "d")), two + `: tensor "d" is not listed in model.safetensors.index.json`},
		{"tensor not in the shard", with(sharded(t), one, shard(t, "a")), `model.safetensors.index.json lists tensor "b" in ` + one + ", which does not have it (1 such"},
		{"tensor in another shard", with(with(sharded(t), one, shard(t, "a")), two, shard(t, "b", "c")), two + `: tensor "b" is in this file, but model.safetensors.index.json lists it in ` + one},
		{"duplicate tensor", with(sharded(t), two, shard(t, "a", "c")), `tensor "a" is in both ` + one + " and " + two},
		{"truncated shard", with(sharded(t), two, truncated), two + `: tensor "c": data of 4 bytes at offset 0 is cut off`},
		{"empty shard", with(sharded(t), two, text("")), two + ": file of 0 bytes is too small"},
		{"dangling shard", with(with(sharded(t), indexName, index(t, "a "+one, "b "+one)), two, shard(t, "c")), "shard " + two + " is not listed in"},
		{"escape", with(sharded(t), indexName, index(t, "a ../x.safetensors")), "not a path below the model's folder"},
		{"absolute path", with(sharded(t), indexName, index(t, "a /etc/x.safetensors")), "not a path below the model's folder"},
		{"windows path", with(sharded(t), indexName, index(t, `a ..\x.safetensors`)), "not a path below the model's folder"},
		{"hidden escape", with(sharded(t), indexName, index(t, "a sub/../../x.safetensors")), "not a path below the model's folder"},
		{"other file", with(sharded(t), indexName, index(t, "a pytorch_model.bin")), "is not a .safetensors file"},
		{"folder as a shard", fstest.MapFS{indexName: index(t, "a x/y.safetensors"), "x/y.safetensors/z": text("")}, "x/y.safetensors: is a folder"},
		{"index without map", with(sharded(t), indexName, text(`{"metadata":{}}`)), "no weight_map"},
		{"index with an empty map", with(sharded(t), indexName, text(`{"weight_map":{}}`)), "no weight_map"},
		{"index with two maps", with(sharded(t), indexName, text(`{"weight_map":{"a":"x.safetensors"},"weight_map":{}}`)), "weight_map is there twice"},
		{"index with a tensor twice", with(sharded(t), indexName, text(`{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}`)), `tensor "a" is there twice`},
		{"index with a number", with(sharded(t), indexName, text(`{"weight_map":{"a":1}}`)), `'1' where '"' should be`},
		{"index nested deep", with(sharded(t), indexName, text(`{"metadata":`+strings.Repeat("[", 100_000))), "nested too deep"},
		{"index cut off", with(sharded(t), indexName, text(`{"weight_map":{"a":"x.safetensors"`)), "the end where ',' or '}' should be"},
		{"index with a bad literal", with(sharded(t), indexName, text(`{"metadata":nil}`)), `invalid JSON: "nil"`},
		{"index and more", with(sharded(t), indexName, text(`{"weight_map":{"a":"x.safetensors"}} {}`)), "after the end"},
		{"several files", fstest.MapFS{three[0]: shard(t, "a"), three[1]: shard(t, "b"), three[2]: shard(t, "c")}, "3 .safetensors files (" + three[0] + ", ...) but no model.safetensors.index.json"},
		{"no files", fstest.MapFS{"config.json": text("{}")}, "no *.safetensors file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ck, err := Open(t.Context(), c.fsys)
			if err == nil {
				ck.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	if _, err := Open(t.Context(), fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
}

// TestFirstError opens many shards of which two are bad: the error is always
// about the first of them.
func TestFirstError(t *testing.T) {
	fsys := fstest.MapFS{}
	for i := range 40 {
		fsys[fmt.Sprintf("model-%05d-of-00040.safetensors", i+1)] = shard(t, fmt.Sprint(i))
	}
	fsys["model-00003-of-00040.safetensors"] = &fstest.MapFile{}
	fsys["model-00005-of-00040.safetensors"] = &fstest.MapFile{}
	for range 20 {
		_, err := Open(t.Context(), fsys)
		if err == nil || !strings.Contains(err.Error(), "model-00003-of-00040") {
			t.Fatalf("got %v", err)
		}
	}
}

// TestManyShards: a listing is compared with an index in one pass; a search
// for each shard took minutes.
func TestManyShards(t *testing.T) {
	names := make([]string, 400_000)
	for i := range names {
		names[i] = fmt.Sprintf("x%06d.safetensors", i)
	}
	start := time.Now()
	l := &listing{names: names, index: indexName}
	if err := l.complete(names); err != nil {
		t.Error(err)
	}
	if err := l.complete(names[1:]); err == nil || !strings.Contains(err.Error(), "shard x000000.safetensors, which") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, sharded(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// tracking counts the files that are open.
type tracking struct {
	fs.FS
	mu   sync.Mutex
	open []string
}

func (f *tracking) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil || strings.HasSuffix(name, ".json") || name == "." {
		return file, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = append(f.open, name)
	return &trackedFile{file, f, name}, nil
}

type trackedFile struct {
	fs.File
	fsys *tracking
	name string
}

func (f *trackedFile) ReadAt(p []byte, off int64) (int, error) {
	return f.File.(io.ReaderAt).ReadAt(p, off)
}

func (f *trackedFile) Close() error {
	f.fsys.mu.Lock()
	defer f.fsys.mu.Unlock()
	i := slices.Index(f.fsys.open, f.name)
	f.fsys.open = slices.Delete(f.fsys.open, i, i+1)
	return f.File.Close()
}

// TestClosed leaves no file open, whether Open fails or not.
func TestClosed(t *testing.T) {
	for _, fsys := range []fs.FS{
		fstest.MapFS{singleName: shard(t, "a")},
		fstest.MapFS{singleName: {}},
		with(sharded(t), two, &fstest.MapFile{}),
		fstest.MapFS{indexName: index(t, "b "+singleName), singleName: shard(t, "a")},
	} {
		tr := &tracking{FS: fsys}
		ck, err := Open(t.Context(), tr)
		if err == nil {
			if len(tr.open) != 1 {
				t.Errorf("%d files are open", len(tr.open))
			}
			ck.Close()
		}
		if len(tr.open) != 0 {
			t.Errorf("%q left open after %v", tr.open, err)
		}
	}
}

// FuzzIndex: no index makes Open panic, and one that is accepted names the
// tensors that the files have.
func FuzzIndex(f *testing.F) {
	for _, pairs := range [][]string{{"a " + one, "b " + one, "c " + two}, {"a ../x.safetensors"}, {"a " + one}} {
		f.Add(index(f, pairs...).Data)
	}
	f.Add([]byte(`{"weight_map":{"\u0061":"` + one + `","b":"` + one + `","c":"` + two + `"},"x":[1.5e-3,null,{"y":[]}]}`))
	fsys := sharded(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := fstest.MapFS{indexName: {Data: b}, one: fsys[one], two: fsys[two]}
		ck, err := Open(t.Context(), m)
		if err != nil {
			return
		}
		defer ck.Close()
		if ck.Len() != 3 || !json.Valid(b) {
			t.Fatalf("accepted %q with %d tensors", b, ck.Len())
		}
	})
}
