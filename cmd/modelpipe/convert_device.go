package main

import (
	"fmt"
	"sync"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/ops/encode"
	"github.com/modelpipe/modelpipe/quantize"
)

// encoders says by whom the blocks of a conversion were encoded.
type encodersJSON struct {
	Device    string `json:"device"`
	Blocks    int64  `json:"blocks"`    // that came from the device
	Canonical int64  `json:"canonical"` // of them, left to the processor: values that are not finite, or of an extreme range
	Failed    string `json:"failed,omitempty"`
}

// deviceEncoder is an encoder and the device that it has to itself.
type deviceEncoder interface {
	convert.Encoder
	Stats() encode.Stats
	Name() string
	Close()
}

// openDeviceEncoder opens a device to encode on. A variable: tests put devices
// there that fail.
var openDeviceEncoder = func(device string) (deviceEncoder, error) {
	d, err := ops.Open(device)
	if err != nil {
		return nil, err
	}
	e, err := d.Encoder()
	if err != nil {
		d.Close()
		return nil, err
	}
	return &xlaEncoder{e, d}, nil
}

type xlaEncoder struct {
	*encode.Encoder
	*ops.Device
}

// accelerated is an encoder on a device that was asked for, and what it does
// where the device fails.
type accelerated struct {
	encoder  deviceEncoder
	fallback bool
	warn     func(error)

	mu     sync.Mutex
	failed error
}

// openEncoder opens the device that --device names, where that is one that
// encodes: "cpu" and "auto" leave encoding to the processor, whose bytes are the
// same everywhere.
func (a *app) openEncoder(m *making) (*accelerated, error) {
	if !m.judging.set("device") || m.judging.device == "cpu" || m.judging.device == "auto" {
		if m.fallback {
			return nil, usagef("--device-fallback goes with a --device that encodes")
		}
		return nil, nil
	}
	e, err := openDeviceEncoder(m.judging.device)
	if err == nil {
		return &accelerated{encoder: e, fallback: m.fallback, warn: func(err error) {
			a.log.Warn("the device failed: the processor goes on encoding", "error", err)
		}}, nil
	}
	if m.fallback {
		a.log.Warn("no device to encode on: the processor does", "error", err)
		return nil, nil
	}
	return nil, withExit(exitUnavailable, err)
}

// encoderOf is x as an option of rendering, nil where it is nil.
func encoderOf(x *accelerated) convert.Encoder {
	if x == nil {
		return nil
	}
	return x
}

func (x *accelerated) Can(t, stored gguf.Type) bool { return x.encoder.Can(t, stored) }
func (x *accelerated) Batch() int64                 { return x.encoder.Batch() }
func (x *accelerated) Calls() int                   { return x.encoder.Calls() }

// Encode implements convert.Encoder.
func (x *accelerated) Encode(dst []byte, t, stored gguf.Type, rows []byte, cols int, importance []float32) error {
	x.mu.Lock()
	failed := x.failed
	x.mu.Unlock()
	if failed == nil {
		err := x.encoder.Encode(dst, t, stored, rows, cols, importance)
		if err == nil {
			return nil
		}
		if !x.fallback {
			return &deviceError{err}
		}
		x.mu.Lock()
		if x.failed == nil {
			x.failed = err
			x.warn(err)
		}
		x.mu.Unlock()
	}
	encodeByProcessor(dst, t, stored, rows, cols, importance)
	return nil
}

// encodeByProcessor does what an encoder on a device does by package quantize.
func encodeByProcessor(dst []byte, t, stored gguf.Type, rows []byte, cols int, importance []float32) {
	read, _ := quantize.Lookup(stored)
	write, _ := quantize.Lookup(t)
	values := make([]float32, int64(len(rows))/stored.BlockBytes()*stored.BlockElements())
	read.Decode(values, rows)
	write.Encode(dst, values, cols, importance)
}

func (x *accelerated) close() {
	if x != nil {
		x.encoder.Close()
	}
}

// describe is nil where nothing was encoded on a device.
func (x *accelerated) describe() *encodersJSON {
	if x == nil {
		return nil
	}
	s := x.encoder.Stats()
	out := &encodersJSON{Device: x.encoder.Name(), Blocks: s.Blocks, Canonical: s.Canonical}
	if x.failed != nil {
		out.Failed = x.failed.Error()
	}
	return out
}

// inputs is what the bytes depend on besides the codecs.
func (x *accelerated) inputs() string {
	if x == nil {
		return ""
	}
	return fmt.Sprintf(" encoded on %s", x.encoder.Name())
}

// deviceError is a failure of the device, after which a later run can go on.
type deviceError struct{ err error }

func (e *deviceError) Error() string { return e.err.Error() + " (--resume goes on)" }
func (e *deviceError) Unwrap() error { return e.err }
