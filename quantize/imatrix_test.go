package quantize

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// imatrixGGUF builds a file as llama-imatrix writes it.
func imatrixGGUF(t *testing.T, kv gguf.Metadata, tensors ...imatrixTensor) []byte {
	t.Helper()
	h := gguf.Header{Version: 3, Alignment: 32, Metadata: kv}
	for _, x := range tensors {
		h.Tensors = append(h.Tensors, gguf.TensorInfo{Name: x.name, Type: gguf.F32, Shape: x.shape})
	}
	size, err := h.Layout()
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	start := len(b)
	b = append(b, make([]byte, int(size)-start)...)
	for i, x := range tensors {
		for j, v := range x.values {
			binary.LittleEndian.PutUint32(b[start+int(h.Tensors[i].Offset)+4*j:], math.Float32bits(v))
		}
	}
	return b
}

type imatrixTensor struct {
	name   string
	shape  []int64
	values []float32
}

var imatrixKeys = gguf.Metadata{
	{Key: "general.type", Value: "imatrix"},
	{Key: "imatrix.datasets", Value: []string{"text.txt"}},
	{Key: "imatrix.chunk_count", Value: uint32(60)},
	{Key: "imatrix.chunk_size", Value: uint32(512)},
}

// imatrixDat builds a file of the older format.
func imatrixDat(entries int32, fields ...any) []byte {
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	put(entries)
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			put(int32(len(f)))
			b.WriteString(f)
		case int:
			put(int32(f))
		default:
			put(f)
		}
	}
	return b.Bytes()
}

func TestImatrix(t *testing.T) {
	file := imatrixGGUF(t, imatrixKeys,
		imatrixTensor{"blk.0.ffn_up.weight.in_sum2", []int64{4, 1}, []float32{2, 4, 6, 8}},
		imatrixTensor{"blk.0.ffn_up.weight.counts", []int64{1, 1}, []float32{2}},
		imatrixTensor{"blk.0.ffn_down_exps.weight.in_sum2", []int64{2, 3}, []float32{3, 6, 0, 0, 10, 20}},
		imatrixTensor{"blk.0.ffn_down_exps.weight.counts", []int64{1, 3}, []float32{3, 0, 10}},
	)
	dat := imatrixDat(2,
		"blk.0.ffn_up.weight", 2, 4, []float32{2, 4, 6, 8},
		"blk.0.ffn_down_exps.weight", 10, 6, []float32{10, 20, 30, 40, 50, 60},
		60, "text.txt")
	for _, c := range []struct {
		name    string
		file    []byte
		experts [][]float32
		idle    []string
	}{
		{"gguf", file, [][]float32{{1, 2}, {1, 1}, {1, 2}}, []string{"blk.0.ffn_down_exps.weight: 1 of 3 experts met no token"}},
		{"dat", dat, [][]float32{{1, 2}, {3, 4}, {5, 6}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := ReadImatrix(bytes.NewReader(c.file), int64(len(c.file)))
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, 4)
			if ok, err := m.Values(got, "blk.0.ffn_up.weight", 0); !ok || err != nil || !reflect.DeepEqual(got, []float32{1, 2, 3, 4}) {
				t.Errorf("ffn_up: %v %v %v", got, ok, err)
			}
			for e, want := range c.experts {
				got := make([]float32, 2)
				if ok, err := m.Values(got, "blk.0.ffn_down_exps.weight", int64(e)); !ok || err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("expert %d: %v %v %v, want %v", e, got, ok, err, want)
				}
			}
			if ok, err := m.Values(got[:2], "blk.0.ffn_down_exps.weight", 3); ok || err != nil {
				t.Errorf("expert 3 of 3: %v %v", ok, err)
			}
			if ok, err := m.Values(got, "output.weight", 0); ok || err != nil {
				t.Errorf("a tensor without data: %v %v", ok, err)
			}
			coverage, err := m.Match([]Tensor{
				weight("blk.0.ffn_up", 4, 8), weight("blk.0.ffn_down_exps", 2, 8, 3), weight("blk.0.attn_v", 4, 8), weight("blk.0.attn_norm", 4),
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := (Coverage{Missing: []string{"blk.0.attn_v.weight"}, Idle: c.idle}); !reflect.DeepEqual(coverage, want) {
				t.Errorf("coverage %+v, want %+v", coverage, want)
			}
			want := gguf.Metadata{
				{Key: "quantize.imatrix.file", Value: "im.gguf"},
				{Key: "quantize.imatrix.dataset", Value: "text.txt"},
				{Key: "quantize.imatrix.entries_count", Value: uint32(2)},
				{Key: "quantize.imatrix.chunks_count", Value: uint32(60)},
			}
			if kv := m.Metadata("im.gguf"); !reflect.DeepEqual(kv, want) {
				t.Errorf("metadata %v, want %v", kv, want)
			}
		})
	}
}

func TestImatrixOfAnotherModel(t *testing.T) {
	file := imatrixGGUF(t, imatrixKeys,
		imatrixTensor{"blk.0.ffn_up.weight.in_sum2", []int64{4, 1}, []float32{2, 4, 6, 8}},
		imatrixTensor{"blk.0.ffn_up.weight.counts", []int64{1, 1}, []float32{2}},
		imatrixTensor{"blk.1.ffn_up.weight.in_sum2", []int64{4, 1}, []float32{2, 4, 6, 8}},
		imatrixTensor{"blk.1.ffn_up.weight.counts", []int64{1, 1}, []float32{2}},
	)
	m, err := ReadImatrix(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tensors []Tensor
		want    string
	}{
		{[]Tensor{weight("blk.0.ffn_up", 8, 8)}, "imatrix of another model: blk.0.ffn_up.weight has 4 values in 1 rows: want 8 in 1"},
		{[]Tensor{weight("blk.0.attn_v", 4, 8)}, "imatrix of another model: none of its 2 tensors is in this one (it begins with blk.0.ffn_up.weight)"},
		{[]Tensor{weight("blk.0.ffn_up", 4, 8)}, "imatrix of another model: it has data for blk.1.ffn_up.weight: this one has 1 blocks"},
	} {
		if _, err := m.Match(c.tensors); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}

func TestImatrixErrors(t *testing.T) {
	nan := float32(math.NaN())
	sums := func(v ...float32) imatrixTensor {
		return imatrixTensor{"a.weight.in_sum2", []int64{int64(len(v)), 1}, v}
	}
	counts := func(v ...float32) imatrixTensor {
		return imatrixTensor{"a.weight.counts", []int64{1, int64(len(v))}, v}
	}
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "unexpected EOF"},
		{"no keys", imatrixGGUF(t, imatrixKeys[:1], sums(1), counts(1)), `"imatrix.datasets": key is missing`},
		{"no counts", imatrixGGUF(t, imatrixKeys, sums(1)), "a.weight.counts is missing"},
		{"no sums", imatrixGGUF(t, imatrixKeys, counts(1)), "tensor a.weight.counts: no sums belong to it"},
		{"no tensors", imatrixGGUF(t, imatrixKeys), "it holds no data"},
		{"sums do not divide", imatrixGGUF(t, imatrixKeys, sums(1, 2, 3), counts(1, 1)), "3 sums do not divide by 2 counts"},
		{"negative", imatrixGGUF(t, imatrixKeys, sums(1, -2), counts(1)), "a.weight: value 1 is -2 at offset"},
		{"not a number", imatrixGGUF(t, imatrixKeys, sums(nan), counts(1)), "a.weight: value 0 is NaN at offset"},
		{"count not a number", imatrixGGUF(t, imatrixKeys, sums(1), counts(nan)), "count NaN of expert 0"},
		{"neither format", []byte("GGML file that is none"), "number of entries at offset 0: 1280132935 is out of range"},
		{"no entries", imatrixDat(0, "trailing bytes"), "0 entries: neither GGUF nor imatrix.dat"},
		{"name too long", imatrixDat(1, 1<<20, 0, 0, 0), "entry 0: name at offset 4: 1048576 is out of range"},
		{"no values", imatrixDat(1, "a.weight", 1, 0), "a.weight: 0 values"},
		{"truncated", imatrixDat(1, "a.weight", 1, 3, []float32{1, 2}), "values at offset 32: unexpected EOF"},
		{"twice", imatrixDat(2, "a.weight", 1, 1, []float32{1}, "a.weight", 1, 1, []float32{1}), "a.weight stands twice"},
		{"negative in dat", imatrixDat(1, "a.weight", 1, 1, []float32{-1}), "value 0 is -1 at offset 24"},
		{"bytes after the end", imatrixDat(1, "a.weight", 1, 1, []float32{1}, 5, "x", 7), "4 bytes follow the data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadImatrix(bytes.NewReader(c.file), int64(len(c.file)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func FuzzReadImatrix(f *testing.F) {
	f.Add(imatrixDat(1, "a.weight", 1, 2, []float32{1, 2}, 60, "text.txt"))
	f.Add([]byte("GGUF\x03\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := ReadImatrix(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		for _, name := range m.Names() {
			dst := make([]float32, m.entries[name].cols)
			if ok, err := m.Values(dst, name, 0); !ok || err != nil {
				t.Errorf("%s: %v %v", name, ok, err)
			}
		}
	})
}
