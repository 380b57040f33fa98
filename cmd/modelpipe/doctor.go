package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/cpu"

	"github.com/modelpipe/modelpipe/ops"
	"github.com/modelpipe/modelpipe/quantize"
)

func init() { register(newDoctor) }

func newDoctor(a *app) *cobra.Command {
	var device string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine and this build can compute with",
		Long: `Doctor shows the processor's features that modelpipe uses, the limits of
processors and memory, which plugins for accelerators were found and where they
were looked for, and what --device auto stands for. It tries the device with a
small product of matrices.

Devices are cpu (gomlx's Go backend), xla:/path/plugin.so (XLA through a PJRT
plugin) and cuda (XLA on an NVIDIA GPU; the plugin comes with the Python package
jax-cuda13-pjrt). Nothing is downloaded. Exit code 4: the device cannot be used.`,
		Example: `  modelpipe doctor
  modelpipe doctor --device cuda --json`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			d := diagnose()
			err := d.try(device)
			if a.json {
				if err := a.printJSON(d); err != nil {
					return err
				}
			} else if err := d.print(a.stdout); err != nil {
				return err
			}
			if err != nil {
				return withExit(exitUnavailable, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&device, "device", "auto", "the `DEVICE` to try: cpu, cuda, auto or xla:/path/plugin.so")
	return cmd
}

// diagnosis is what doctor shows.
type diagnosis struct {
	Build     build        `json:"build"`
	Cgo       bool         `json:"cgo"`
	SIMD      bool         `json:"simd"` // the Go backend's vector kernels are in this build
	XLA       bool         `json:"xla"`  // this build can load plugins
	Processor processor    `json:"processor"`
	Memory    memoryLimits `json:"memory"`
	CUDA      cudaView     `json:"cuda"`
	Auto      string       `json:"auto"` // what --device auto stands for
	Device    deviceView   `json:"device"`
}

type processor struct {
	Features []string `json:"features"`
	Codecs   []string `json:"codecs"` // instruction sets of the quantizers, the best first
	Count    int      `json:"count"`
	Used     int      `json:"used"` // GOMAXPROCS, which heeds the control group's limit
}

// memoryLimits are in bytes, 0 where unknown or without limit.
type memoryLimits struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
	Group     int64 `json:"group"` // of the control group
	Go        int64 `json:"go"`    // GOMEMLIMIT
}

type cudaView struct {
	GPUs      []string `json:"gpus"`
	Plugin    string   `json:"plugin"`
	Libraries string   `json:"libraries"`
	Toolkit   string   `json:"toolkit"` // with libdevice
	Searched  []string `json:"searched"`
}

// deviceView is the device that was tried.
type deviceView struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	GFLOPS      float64 `json:"gflops,omitempty"` // of a float32 product of 256x1024 and 1024x1024
	Error       string  `json:"error,omitempty"`
}

func diagnose() *diagnosis {
	c := ops.FindCUDA()
	d := &diagnosis{
		Build: version(),
		SIMD:  ops.SIMD,
		XLA:   ops.XLA,
		Processor: processor{
			Features: processorFeatures(),
			Codecs:   quantize.InstructionSets(),
			Count:    runtime.NumCPU(),
			Used:     runtime.GOMAXPROCS(0),
		},
		Memory: memoryLimits{
			Total:     procMemory("MemTotal"),
			Available: procMemory("MemAvailable"),
			Group:     groupMemory(),
		},
		CUDA: cudaView{append([]string{}, c.GPUs...), c.Plugin, c.Libraries, c.Toolkit, append([]string{}, c.Searched...)},
		Auto: ops.Auto(),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			d.Cgo = d.Cgo || s.Key == "CGO_ENABLED" && s.Value == "1"
		}
	}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		d.Memory.Go = limit
	}
	return d
}

// try opens a device and computes with it.
func (d *diagnosis) try(name string) error {
	d.Device.Name = name
	err := func() error {
		device, err := ops.Open(name)
		if err != nil {
			return err
		}
		defer device.Close()
		d.Device.Name, d.Device.Description = device.Name(), device.Description()
		rate, err := device.Try()
		d.Device.GFLOPS = math.Round(rate/1e8) / 10
		return err
	}()
	if err != nil {
		d.Device.Error = err.Error()
	}
	return err
}

// processorFeatures lists what modelpipe's and the Go backend's kernels ask for.
func processorFeatures() []string {
	features := []string{}
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx2", cpu.X86.HasAVX2}, {"fma", cpu.X86.HasFMA}, {"bmi1", cpu.X86.HasBMI1}, {"bmi2", cpu.X86.HasBMI2},
		{"avx512f", cpu.X86.HasAVX512F}, {"avx512bw", cpu.X86.HasAVX512BW}, {"avx512dq", cpu.X86.HasAVX512DQ},
		{"avx512vl", cpu.X86.HasAVX512VL}, {"neon", cpu.ARM64.HasASIMD},
	} {
		if f.has {
			features = append(features, f.name)
		}
	}
	return features
}

// procMemory is a line of Linux's /proc/meminfo in bytes, 0 elsewhere.
func procMemory(key string) int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == key {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// groupMemory is the least memory limit of this process's control group and of
// those around it (cgroup v2), or of cgroup v1's root as containers see it.
func groupMemory() int64 {
	least := int64(0)
	take := func(file string) {
		text, err := os.ReadFile(file)
		if err != nil {
			return
		}
		// "max" and v1's number near 2^63 stand for no limit.
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n < 1<<60 && (least == 0 || n < least) {
			least = n
		}
	}
	const root = "/sys/fs/cgroup"
	take(filepath.Join(root, "memory/memory.limit_in_bytes"))
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(groups)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for dir := filepath.Clean("/" + group); ; dir = filepath.Dir(dir) {
			take(filepath.Join(root, dir, "memory.max"))
			if dir == "/" {
				break
			}
		}
	}
	return least
}

func (d *diagnosis) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, values...))
	}
	list := func(values []string, none string) string {
		if len(values) == 0 {
			return none
		}
		return strings.Join(values, ", ")
	}
	size := func(n int64, none string) string {
		if n == 0 {
			return none
		}
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	yes := map[bool]string{true: "yes", false: "no"}
	line("build", "%s", d.Build)
	line("cgo", "%s", yes[d.Cgo])
	if d.SIMD {
		line("go backend", "vector kernels")
	} else {
		line("go backend", "plain Go, slow: GOEXPERIMENT=simd builds its vector kernels")
	}
	line("xla plugins", "%s", map[bool]string{true: "can be loaded", false: "cannot be loaded: it takes cgo on linux/amd64"}[d.XLA])
	line("processors", "%d, %d used", d.Processor.Count, d.Processor.Used)
	line("features", "%s", list(d.Processor.Features, "none that is used"))
	line("codecs", "%s", list(d.Processor.Codecs, "plain Go"))
	line("memory", "%s, %s available, limits: group %s, GOMEMLIMIT %s", size(d.Memory.Total, "unknown"),
		size(d.Memory.Available, "unknown"), size(d.Memory.Group, "none"), size(d.Memory.Go, "none"))
	line("gpus", "%s", list(d.CUDA.GPUs, "none"))
	if d.CUDA.Plugin != "" {
		line("cuda plugin", "%s", d.CUDA.Plugin)
		line("cuda libraries", "%s", list(strings.Fields(d.CUDA.Libraries), "not found beside the plugin's package"))
		line("cuda toolkit", "%s", list(strings.Fields(d.CUDA.Toolkit), "no libdevice found"))
	} else {
		line("cuda plugin", "not found (jax-cuda13-pjrt or jax-cuda12-pjrt)")
	}
	for _, folder := range d.CUDA.Searched {
		line("  searched", "%s", folder)
	}
	line("auto", "%s", d.Auto)
	if d.Device.Error != "" {
		line("device", "%s: %s", d.Device.Name, d.Device.Error)
	} else {
		line("device", "%s works, %.1f GFLOP/s: %s", d.Device.Name, d.Device.GFLOPS, d.Device.Description)
	}
	return w.Flush()
}
