package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/validate"
)

func init() { register(newRenderTemplate) }

// What a chat template may cost: it is a stranger's program.
const (
	templateMemory = 256 << 20        // bytes of its process; half of it for its values
	templateTime   = 20 * time.Second // with the process's start
	templateOutput = 64 << 20         // bytes of its answer, as JSON
	watchEvery     = 2 * time.Millisecond
)

// rendered is what newRenderTemplate answers.
type rendered struct {
	Text   string `json:"text"`
	Raised bool   `json:"raised,omitempty"` // Error is the template's own
	Error  string `json:"error,omitempty"`
}

// newRenderTemplate is the process that renderApart starts: it reads a
// validate.Rendering as JSON from stdin, and answers with a rendered unless it
// ends for want of memory.
func newRenderTemplate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "render-template",
		Short:  "Render a conversation by a chat template, for validate",
		Args:   args(cobra.NoArgs),
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			limitMemory(templateMemory)
			go watchMemory(a.stderr)
			var r validate.Rendering
			if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
				return fmt.Errorf("rendering: %w", err)
			}
			var out rendered
			text, err := r.Run()
			if out.Text = text; err != nil {
				out.Error, out.Raised = strings.TrimPrefix(err.Error(), validate.ErrRaised.Error()+": "), errors.Is(err, validate.ErrRaised)
			}
			return json.NewEncoder(a.stdout).Encode(out)
		},
	}
}

// watchMemory ends the process when its heap has grown too large, which is
// before limitMemory does unless it grows at once. Systems whose limits do not
// hold Go's memory have no other bound.
func watchMemory(stderr io.Writer) {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	for range time.Tick(watchEvery) {
		if metrics.Read(heap); heap[0].Value.Uint64() > templateMemory/2 {
			fmt.Fprintln(stderr, "its values are too large")
			os.Exit(exitFailed)
		}
	}
}

// renderApart renders in a process of its own, whose memory is bounded.
func renderApart(ctx context.Context, r validate.Rendering) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	request, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, templateTime)
	defer cancel()
	c := exec.CommandContext(ctx, self, "render-template")
	stdout, stderr := &head{left: templateOutput}, &head{left: 1 << 10}
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(request), stdout, stderr
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("chat template: %w", ctx.Err())
		}
		said, _, _ := strings.Cut(stderr.String(), "\n")
		return "", fmt.Errorf("chat template: its process, which may take %d MiB of memory, has failed: %s", templateMemory>>20, cmp.Or(said, err.Error()))
	}
	var out rendered
	switch err := json.Unmarshal(stdout.Bytes(), &out); {
	case err != nil:
		return "", fmt.Errorf("chat template: %w", err)
	case out.Raised:
		return "", fmt.Errorf("%w: %s", validate.ErrRaised, out.Error)
	case out.Error != "":
		return "", errors.New(out.Error)
	}
	return out.Text, nil
}

// head keeps the first bytes of what is written to it.
type head struct {
	bytes.Buffer
	left int
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.left)
	h.left -= n
	h.Buffer.Write(p[:n])
	return len(p), nil
}
