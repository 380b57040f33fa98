package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/encode"
)

// A fakeDevice encodes as package quantize does, and fails from a call on.
type fakeDevice struct {
	name  string
	fails error
	after int64 // calls that succeed; less than 0: all
	calls atomic.Int64
	meet  func()        // in each call that succeeds; nil: nothing
	open  *atomic.Int64 // devices that are not closed
}

func (f *fakeDevice) Can(t, stored gguf.Type) bool {
	return t == gguf.Q4_K && (stored == gguf.BF16 || stored == gguf.Q8_0)
}
func (f *fakeDevice) Batch() int64 { return 1 << 16 }
func (f *fakeDevice) Calls() int   { return 2 }
func (f *fakeDevice) Name() string { return f.name }
func (f *fakeDevice) Close()       { f.open.Add(-1) }
func (f *fakeDevice) Stats() encode.Stats {
	return encode.Stats{Blocks: f.calls.Load()}
}

func (f *fakeDevice) Encode(dst []byte, t, stored gguf.Type, rows []byte, cols int, importance []float32) error {
	if n := f.calls.Add(1); f.after >= 0 && n > f.after {
		return f.fails
	}
	if f.meet != nil {
		f.meet()
	}
	encodeByProcessor(dst, t, stored, rows, cols, importance)
	return nil
}

// useDevice makes --device open f; its closing is checked at the end.
func useDevice(t *testing.T, f *fakeDevice) {
	t.Helper()
	before := openDeviceEncoder
	f.open = new(atomic.Int64)
	openDeviceEncoder = func(string) (deviceEncoder, error) {
		f.open.Add(1)
		return f, nil
	}
	t.Cleanup(func() {
		openDeviceEncoder = before
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d devices were left open", n)
		}
	})
}

// Device failures as XLA words them.
var (
	errOutOfMemory = errors.New("encode Q4_K on xla: PJRT error (code=8): RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1073741824 bytes")
	errDeviceLost  = errors.New("encode Q4_K on xla: PJRT error (code=13): INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: the device was lost")
)

// TestDeviceFails ends a conversion of which the device fails in the middle with
// an error that says how to go on, and --resume goes on with what is written.
func TestDeviceFails(t *testing.T) {
	dir := makeModel(t, 2)
	_, want := converted(t, dir, "--type", "q4_k")
	for _, fails := range []error{errOutOfMemory, errDeviceLost} {
		t.Run(fails.Error(), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "o.gguf")
			broken := &fakeDevice{name: "cuda", fails: fails, after: 100}
			useDevice(t, broken)
			args := []string{"convert", dir, "--type", "q4_k", "--device", "cuda", "-o", out}
			code, _, stderr := try(t, args...)
			if code != exitFailed {
				t.Fatalf("exit %d", code)
			}
			for _, part := range []string{"tensor ", "rows ", fails.Error(), "--resume goes on"} {
				if !strings.Contains(stderr, part) {
					t.Errorf("stderr %q: want %q", stderr, part)
				}
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("there is an output")
			}
			whole := &fakeDevice{name: "cuda", after: -1}
			useDevice(t, whole)
			if code, _, stderr = try(t, append(args, "--resume")...); code != exitDone {
				t.Fatalf("exit %d, %s", code, stderr)
			}
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
				t.Errorf("another file (%v)", err)
			}
			all := &fakeDevice{name: "cuda", after: -1}
			useDevice(t, all)
			if code, _, stderr = try(t, append(args[:len(args)-1], filepath.Join(t.TempDir(), "o.gguf"))...); code != exitDone {
				t.Fatalf("exit %d, %s", code, stderr)
			}
			if n := whole.calls.Load(); n >= all.calls.Load() {
				t.Errorf("the resumed run made %d calls, a whole one %d", n, all.calls.Load())
			}
		})
	}
}

// TestDeviceFallback lets the processor go on where the device fails, with one
// warning, and says so in the result.
func TestDeviceFallback(t *testing.T) {
	dir := makeModel(t, 2)
	_, want := converted(t, dir, "--type", "q4_k")
	for _, fails := range []error{errOutOfMemory, errDeviceLost} {
		t.Run(fails.Error(), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "o.gguf")
			useDevice(t, &fakeDevice{name: "cuda", fails: fails, after: 20})
			code, stdout, stderr := try(t, "convert", dir, "--type", "q4_k", "--device", "cuda", "--device-fallback", "-o", out, "--json")
			if code != exitDone {
				t.Fatalf("exit %d, %s", code, stderr)
			}
			if n := strings.Count(stderr, "the processor goes on encoding"); n != 1 {
				t.Errorf("%d warnings: %s", n, stderr)
			}
			var said struct{ Encoders *encodersJSON }
			if err := json.Unmarshal([]byte(stdout), &said); err != nil {
				t.Fatal(err)
			}
			if said.Encoders == nil || said.Encoders.Failed != fails.Error() || said.Encoders.Device != "cuda" {
				t.Errorf("%+v", said.Encoders)
			}
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
				t.Errorf("another file (%v)", err)
			}
		})
	}
}

// TestDeviceOverlaps has more calls under way than there are threads, so that
// the device is not idle while rows are read and written.
func TestDeviceOverlaps(t *testing.T) {
	dir := makeModel(t, 1)
	device := &fakeDevice{name: "cuda", after: -1}
	var inside atomic.Int64
	together := make(chan struct{})
	device.meet = func() {
		if inside.Add(1) == int64(device.Calls()+1) {
			close(together)
		}
		select {
		case <-together:
		case <-time.After(30 * time.Second):
			t.Errorf("%d calls are under way", inside.Load())
		}
	}
	useDevice(t, device)
	converted(t, dir, "--type", "q4_k", "--device", "cuda", "--threads", "1")
}

// TestDeviceRequantizes gives a device the stored blocks of a GGUF file, and
// refuses weights in them that are not finite.
func TestDeviceRequantizes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "q8.gguf")
	if code, _, stderr := try(t, "convert", makeModel(t, 1), "--type", "q8_0", "-o", file); code != exitDone {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	_, want := converted(t, file, "--type", "q4_k")
	device := &fakeDevice{name: "cuda", after: -1}
	useDevice(t, device)
	if _, got := converted(t, file, "--type", "q4_k", "--device", "cuda"); !bytes.Equal(got, want) {
		t.Error("another file")
	}
	if device.calls.Load() == 0 {
		t.Error("the device was not used")
	}
	useDevice(t, &fakeDevice{name: "cuda", fails: errDeviceLost, after: 2})
	if _, got := converted(t, file, "--type", "q4_k", "--device", "cuda", "--device-fallback"); !bytes.Equal(got, want) {
		t.Error("another file where the device fails")
	}

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	start, err := h.DataOffset()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range h.Tensors {
		if i.Name == "blk.0.ffn_up.weight" {
			copy(data[start+i.Offset+34*5:], []byte{0, 0x7c}) // an infinite scale
		}
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	useDevice(t, device)
	_, _, expected := try(t, "convert", file, "--type", "q4_k", "-o", filepath.Join(dir, "o.gguf"))
	code, _, got := try(t, "convert", file, "--type", "q4_k", "-o", filepath.Join(dir, "o.gguf"), "--device", "cuda")
	if code != exitFailed || got != expected || !strings.Contains(got, "blk.0.ffn_up.weight") {
		t.Errorf("exit %d, %q, want %q", code, got, expected)
	}
}

// TestDeviceMissing refuses a device that is not there, or with
// --device-fallback warns and leaves all to the processor.
func TestDeviceMissing(t *testing.T) {
	dir := makeModel(t, 1)
	_, want := converted(t, dir, "--type", "q4_k")
	folder := t.TempDir()
	out, plugin := filepath.Join(folder, "o.gguf"), filepath.Join(folder, "none.so")
	args := []string{"convert", dir, "--type", "q4_k", "--device", "xla:" + plugin, "-o", out}
	code, _, stderr := try(t, args...)
	if code != exitUnavailable || !strings.Contains(stderr, "device xla:"+plugin) {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	code, _, stderr = try(t, append(args, "--device-fallback")...)
	if code != exitDone || !strings.Contains(stderr, "no device to encode on: the processor does") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another file (%v)", err)
	}
	if code, _, stderr = try(t, "convert", dir, "-o", out, "--device-fallback"); code != exitUsage {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
