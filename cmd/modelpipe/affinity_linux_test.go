package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAffinity converts in a process that may use one or two processors: there
// are as many workers.
func TestAffinity(t *testing.T) {
	dir := makeModel(t, 4)
	// Children inherit the mask of the thread that starts them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	for want := 1; want <= min(2, all.Count()); want++ {
		var some unix.CPUSet
		for cpu := 0; some.Count() < want; cpu++ {
			if all.IsSet(cpu) {
				some.Set(cpu)
			}
		}
		if err := unix.SchedSetaffinity(0, &some); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0], "convert", dir, "--type", "q8_0", "-o", filepath.Join(t.TempDir(), "o.gguf"), "--json")
		c.Env = append(os.Environ(), asCommand+"=1", "GOMAXPROCS=")
		stdout, err := c.Output()
		var summary struct{ Threads int }
		if err == nil {
			err = json.Unmarshal(stdout, &summary)
		}
		if err != nil || summary.Threads != want {
			t.Errorf("on %d processors: %d workers, %v", want, summary.Threads, err)
		}
	}
}
