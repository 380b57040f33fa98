package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// Health says how a node finds out whether a release serves. Without command
// and address every release is healthy.
type Health struct {
	Command string        // for the shell; exit code 0 says yes. It may restart the server.
	URL     string        // asked until it answers 2xx
	Timeout time.Duration // for both together
}

// checkable says whether there is anything to ask.
func (h Health) checkable() bool { return h.Command != "" || h.URL != "" }

// check asks about the current release. What it prints goes to the error.
func (h Health) check(ctx context.Context, r *Release, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("no answer within %v", h.Timeout))
	defer cancel()
	if h.Command != "" {
		if err := h.run(ctx, r, path); err != nil {
			return fmt.Errorf("health command: %w", err)
		}
	}
	if h.URL != "" {
		if err := h.ask(ctx); err != nil {
			return fmt.Errorf("health address: %w", err)
		}
	}
	return nil
}

// run runs the command, with the release in its environment: its number in
// MODELPIPE_RELEASE, the path of the link to it in MODELPIPE_CURRENT.
func (h Health) run(ctx context.Context, r *Release, path string) error {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", h.Command)
	alone(c)
	c.WaitDelay = 2 * time.Second
	c.Env = append(os.Environ(), "MODELPIPE_RELEASE="+strconv.FormatInt(r.Number, 10), "MODELPIPE_CURRENT="+path)
	said := &tail{most: 500}
	c.Stdout, c.Stderr = said, said
	err := c.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it left something running in the background
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if text := said.String(); text != "" {
		err = fmt.Errorf("%w: it said %q", err, text)
	}
	return err
}

// ask asks the address until it says yes.
func (h Health) ask(ctx context.Context) error {
	pause := min(500*time.Millisecond, h.Timeout/20)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}}
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
		if err != nil {
			return withoutURL(err)
		}
		res, err := client.Do(req)
		switch {
		case err == nil:
			io.CopyN(io.Discard, res.Body, 64<<10)
			res.Body.Close()
			if res.StatusCode/100 == 2 {
				return nil
			}
			last = errors.New(res.Status)
		case ctx.Err() == nil || last == nil:
			last = withoutURL(err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: last %w", context.Cause(ctx), last)
		case <-time.After(pause):
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	most int
	b    []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > t.most {
		t.b = append([]byte{}, t.b[len(t.b)-t.most:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(bytes.ToValidUTF8(t.b, nil))) }

// healthy asks whether the current release serves, and says so in words of
// this package where it does not.
func (n *Node) healthy(ctx context.Context, r *Release) error {
	if !n.o.Health.checkable() {
		return nil
	}
	err := n.o.Health.check(ctx, r, n.home.name(currentName))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil { // the node was stopped; nobody has said no
		return fmt.Errorf("release %d: %w: %w", r.Number, publish.ErrUnavailable, context.Cause(ctx))
	}
	return fmt.Errorf("release %d: %w: %w", r.Number, ErrUnhealthy, err)
}
