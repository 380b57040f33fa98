package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/hub"
)

// try runs a command line in the test's process.
func try(t *testing.T, arguments ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = run(t.Context(), arguments, &out, &err)
	return code, out.String(), err.String()
}

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nonsense"}, `unknown command "nonsense"`},
		{[]string{"--nonsense"}, "unknown flag: --nonsense"},
		{[]string{"version", "extra"}, "unknown command \"extra\""},
		{[]string{"version", "--log-level", "loud"}, "--log-level loud: want debug"},
	} {
		code, stdout, stderr := try(t, c.args...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 2 {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}} {
		code, stdout, stderr := try(t, args...)
		if code != exitDone || !strings.HasPrefix(stdout, "modelpipe ") || stderr != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	code, stdout, _ := try(t, "version", "--json")
	var b build
	if err := json.Unmarshal([]byte(stdout), &b); err != nil || code != exitDone || b.Go == "" {
		t.Errorf("exit %d, %q, %v", code, stdout, err)
	}
}

func TestHelp(t *testing.T) {
	code, stdout, stderr := try(t)
	if code != exitDone || !strings.Contains(stdout, "Exit codes:") || stderr != "" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestExitCodes(t *testing.T) {
	plain := errors.New("first\nsecond")
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{plain, exitFailed},
		{context.Canceled, exitFailed},
		{usagef("bad"), exitUsage},
		{fmt.Errorf("gate: %w", withExit(exitGate, plain)), exitGate},
		{fmt.Errorf("fetch: %w", hub.ErrRateLimited), exitUnavailable},
		{withExit(exitFailed, hub.ErrRateLimited), exitFailed},
	} {
		saved := commands
		commands = []func(*app) *cobra.Command{func(*app) *cobra.Command {
			return &cobra.Command{Use: "do", RunE: func(*cobra.Command, []string) error { return c.err }}
		}}
		code, stdout, stderr := try(t, "do")
		commands = saved
		if code != c.want || stdout != "" {
			t.Errorf("%v: exit %d, want %d, stdout %q", c.err, code, c.want, stdout)
		}
		if c.want == exitFailed && strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: stderr %q is not one line", c.err, stderr)
		}
	}
}
