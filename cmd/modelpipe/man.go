package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func init() { register(newMan) }

// newMan writes the manual pages, for packagers: one for the program and one
// for each command, from the same texts as --help.
func newMan(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write the manual pages (section 1) to a folder",
		Args:   args(cobra.ExactArgs(1)),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			pages := manPages(cmd.Root())
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			var names []string
			for _, p := range pages {
				name := filepath.Join(args[0], p.name+".1")
				if err := os.WriteFile(name, []byte(p.text), 0o644); err != nil {
					return err
				}
				names = append(names, name)
			}
			if a.json {
				return a.printJSON(names)
			}
			_, err := fmt.Fprintln(a.stdout, strings.Join(names, "\n"))
			return err
		},
	}
}

type manPage struct{ name, text string }

// manPages returns the page of cmd and those of the commands below it.
func manPages(cmd *cobra.Command) []manPage {
	pages := []manPage{{manName(cmd), manText(cmd)}}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			pages = append(pages, manPages(c)...)
		}
	}
	return pages
}

func manName(cmd *cobra.Command) string {
	return strings.ReplaceAll(cmd.CommandPath(), " ", "-")
}

// manText is a page in the man macros of roff (groff_man(7)).
func manText(cmd *cobra.Command) string {
	var b strings.Builder
	section := func(title string) { fmt.Fprintf(&b, ".SH %s\n", title) }
	name := manName(cmd)
	fmt.Fprintf(&b, ".TH %s 1 \"\" modelpipe\n", strings.ToUpper(name))
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", roff(name), roff(cmd.Short))
	section("SYNOPSIS")
	fmt.Fprintf(&b, ".B %s\n", roff(cmd.UseLine()))
	section("DESCRIPTION")
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	b.WriteString(roffParagraphs(text))
	for _, set := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"OPTIONS", cmd.NonInheritedFlags()}, {"GLOBAL OPTIONS", cmd.InheritedFlags()}} {
		if !set.flags.HasAvailableFlags() {
			continue
		}
		section(set.title)
		set.flags.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			value, usage := pflag.UnquoteUsage(f)
			title := "--" + f.Name
			if f.Shorthand != "" {
				title = "-" + f.Shorthand + ", " + title
			}
			if value != "" {
				title += " " + value
			}
			switch f.DefValue {
			case "", "false", "0", "0s", "[]":
			default:
				usage += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(title), roff(usage))
		})
	}
	if cmd.Example != "" {
		section("EXAMPLES")
		fmt.Fprintf(&b, ".nf\n%s\n.fi\n", roff(cmd.Example))
	}
	section("EXIT STATUS")
	for _, e := range []struct {
		code int
		text string
	}{
		{exitDone, "done"},
		{exitFailed, "failed"},
		{exitUsage, "wrong usage"},
		{exitGate, "a gate said no: quality, budget or signature"},
		{exitUnavailable, "the source or the target is unavailable; worth a retry"},
	} {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, e.text)
	}
	var also []string
	if cmd.HasParent() {
		also = append(also, roff(manName(cmd.Parent()))+"(1)")
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			also = append(also, roff(manName(c))+"(1)")
		}
	}
	if len(also) > 0 {
		section("SEE ALSO")
		b.WriteString(strings.Join(also, ", ") + "\n")
	}
	return b.String()
}

// roffParagraphs keeps empty lines as the ends of paragraphs.
func roffParagraphs(text string) string {
	var b strings.Builder
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		b.WriteString(roff(p) + "\n")
	}
	return b.String()
}

// roff escapes text so that no character of it is an instruction.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
