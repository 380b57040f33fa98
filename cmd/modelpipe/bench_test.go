package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestBench(t *testing.T) {
	code, stdout, stderr := try(t, "bench", "--json", "--seconds", "0.001", "q8_0", "Q4_0", "IQ2_XS")
	var got []codecSpeed
	if err := json.Unmarshal([]byte(stdout), &got); code != exitDone || err != nil || len(got) != 3 {
		t.Fatalf("exit %d, stdout %q, stderr %q: %v", code, stdout, stderr, err)
	}
	for i, want := range []struct {
		name               string
		encode, importance bool
	}{{"Q8_0", true, false}, {"Q4_0", true, true}, {"IQ2_XS", false, true}} {
		s := got[i]
		if s.Type != want.name || (s.Encode.Fast > 0) != want.encode || (s.Importance.Fast > 0) != want.importance || !(s.Decode.Plain > 0) {
			t.Errorf("%+v, want %+v", s, want)
		}
	}
	if code, stdout, _ := try(t, "bench", "--seconds", "0.001", "F16"); code != exitDone || !strings.Contains(stdout, "F16") {
		t.Errorf("exit %d, stdout %q", code, stdout)
	}
	for _, args := range [][]string{{"bench", "Q9"}, {"bench", "I8"}, {"bench", "--seconds", "0"}} {
		if code, _, _ := try(t, args...); code != exitUsage {
			t.Errorf("%q: exit %d", args, code)
		}
	}
}
