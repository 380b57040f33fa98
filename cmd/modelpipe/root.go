package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

// The exit codes of every command.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitGate        = 3 // quality, budget or signature said no
	exitUnavailable = 4 // source or target; worth a retry
)

// exitError is an error that ends the command with a certain code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// withExit gives err the exit code; an error without one ends with exitFailed.
func withExit(code int, err error) error { return &exitError{code, err} }

// usagef is an error in how the command was called.
func usagef(format string, args ...any) error {
	return withExit(exitUsage, fmt.Errorf(format, args...))
}

// exitCode returns the code for what a command returned.
func exitCode(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, pipeline.ErrUsage):
		return exitUsage
	case errors.Is(err, hub.ErrUnavailable), errors.Is(err, publish.ErrUnavailable), errors.Is(err, pipeline.ErrLocked), errors.Is(err, pipeline.ErrLeaseLost):
		return exitUnavailable
	}
	return exitFailed
}

// app is what all commands share. The fields after stderr are set from the
// flags before a command runs.
type app struct {
	stdout io.Writer // the result, nothing else
	stderr io.Writer // progress and logs
	json   bool      // the result as JSON
	log    *slog.Logger
}

// printJSON writes v as indented JSON to stdout.
func (a *app) printJSON(v any) error { return encodeJSON(a.stdout, v) }

// encodeJSON writes v as indented JSON.
func encodeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// commands makes the subcommands; each command's file appends to it with
// register from its init function.
var commands []func(*app) *cobra.Command

func register(command func(*app) *cobra.Command) { commands = append(commands, command) }

// args turns cobra's complaint about the arguments into a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return withExit(exitUsage, err)
		}
		return nil
	}
}

func newRoot(a *app) *cobra.Command {
	var level string
	root := &cobra.Command{
		Use:   "modelpipe",
		Short: "Take open models from the Hugging Face Hub to the edge",
		Long: `Modelpipe takes open models from the Hugging Face Hub to the edge: it converts
them into GGUF files, planned before a weight is read and rendered in one
streaming pass, measures what that cost and judges the files, publishes them to
folders, buckets and registries, and keeps the signed catalog that gateways and
nodes read.

The result goes to stdout, progress and logs go to stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate said no (quality, budget,
signature), 4 the source or target is unavailable (worth a retry).`,
		Version:       version().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: args(func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q", args[0])
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return usagef("--log-level %s: want debug, info, warn or error", level)
			}
			a.log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: l}))
			return nil
		},
	}
	root.SetVersionTemplate("modelpipe {{.Version}}\n")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print the result as JSON")
	root.PersistentFlags().StringVar(&level, "log-level", "info", "log to stderr from this `level` on: debug, info, warn, error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return withExit(exitUsage, err) })
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	for _, command := range commands {
		root.AddCommand(command(a))
	}
	return root
}

// run executes the command line and returns the exit code. Whatever went
// wrong is one line on stderr.
func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, log: slog.New(slog.DiscardHandler)}
	root := newRoot(a)
	root.SetArgs(append([]string{}, arguments...)) // not nil: cobra would take os.Args
	cmd, err := root.ExecuteContextC(ctx)
	code := exitCode(err)
	if err != nil {
		fmt.Fprintf(stderr, "modelpipe: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		if code == exitUsage {
			fmt.Fprintf(stderr, "run '%s --help' for usage\n", cmd.CommandPath())
		}
	}
	return code
}
