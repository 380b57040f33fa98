package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	code, stdout, stderr := try(t, "doctor", "--device", "cpu")
	if code != exitDone || !strings.Contains(stdout, "cpu works") {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = try(t, "doctor", "--device", "cpu", "--json")
	var d diagnosis
	if err := json.Unmarshal([]byte(stdout), &d); err != nil || code != exitDone {
		t.Fatalf("exit %d: %v: %s%s", code, err, stdout, stderr)
	}
	if d.Device.Name != "cpu" || d.Device.GFLOPS <= 0 || d.Processor.Count < 1 || d.Auto == "" {
		t.Errorf("%+v", d)
	}
	code, stdout, stderr = try(t, "doctor", "--device", "xla:/nowhere/plugin.so")
	if code != exitUnavailable || !strings.Contains(stderr, "/nowhere/plugin.so") || !strings.Contains(stdout, "processors") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}
