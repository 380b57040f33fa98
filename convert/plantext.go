package convert

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// WriteText writes the plan for people, and for golden files: the metadata, one
// key per line, then one line per tensor with its type, shape (row length
// first), offset in the file, bytes, and where its rows come from. Long values
// are cut. The text depends on the plan alone.
func (p *Plan) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "key\tvalue")
	for _, kv := range p.Header.Metadata {
		fmt.Fprintf(tw, "%s\t%s\n", kv.Key, brief(kv.Value))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(tw, "\ntensor\ttype\tshape\toffset\tbytes\tfrom")
	for _, s := range p.Steps {
		dims := make([]string, len(s.Shape))
		for i, n := range s.Shape {
			dims[i] = strconv.FormatInt(n, 10)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%v\n", s.Name, s.Type, strings.Join(dims, "x"), s.Offset, s.Size, s.From)
	}
	return tw.Flush()
}

// maxBrief is how many characters of a value, and maxItems how many elements
// of a list, WriteText shows.
const (
	maxBrief = 60
	maxItems = 4
)

// brief writes a metadata value on one line.
func brief(v any) string {
	switch v := v.(type) {
	case string:
		return briefText(v)
	case []string:
		return briefList(v, briefText)
	case []int32:
		return briefList(v, func(n int32) string { return strconv.Itoa(int(n)) })
	case []uint8:
		return briefList(v, func(n uint8) string { return strconv.Itoa(int(n)) })
	case []bool:
		return briefList(v, strconv.FormatBool)
	case []float32:
		return briefList(v, func(x float32) string { return strconv.FormatFloat(float64(x), 'g', -1, 32) })
	}
	return fmt.Sprint(v)
}

func briefText(s string) string {
	if utf8.RuneCountInString(s) <= maxBrief {
		return strconv.Quote(s)
	}
	runes := []rune(s)
	return fmt.Sprintf("%q... (%d bytes)", string(runes[:maxBrief]), len(s))
}

func briefList[T any](list []T, one func(T) string) string {
	var parts []string
	for _, v := range list[:min(len(list), maxItems)] {
		parts = append(parts, one(v))
	}
	if len(list) > maxItems {
		parts = append(parts, fmt.Sprintf("... (%d)", len(list)))
	}
	return "[" + strings.Join(parts, " ") + "]"
}
