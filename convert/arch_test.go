package convert

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
)

// The goldens' upstream.txt has one line per KV and per tensor of what
// llama.cpp's converter writes, long arrays as the SHA-256 of the compact JSON
// that Python makes of them. The functions here write the same of our headers.

// describeValue is the right side of a KV's line.
func describeValue(v any) string {
	switch v := v.(type) {
	case string:
		return "STRING " + pythonText(v)
	case uint32:
		return fmt.Sprintf("UINT32 %d", v)
	case int32:
		return fmt.Sprintf("INT32 %d", v)
	case bool:
		return fmt.Sprintf("BOOL %t", v)
	case float32:
		return "FLOAT32 " + pythonNumber(float64(v))
	case []string:
		return describeList("STRING", v, pythonText)
	case []int32:
		return describeList("INT32", v, func(n int32) string { return fmt.Sprint(n) })
	case []uint8:
		return describeList("UINT8", v, func(n uint8) string { return fmt.Sprint(n) })
	case []bool:
		return describeList("BOOL", v, func(b bool) string { return fmt.Sprint(b) })
	case []float32:
		return describeList("FLOAT32", v, func(x float32) string { return pythonNumber(float64(x)) })
	}
	return fmt.Sprintf("%T", v)
}

func describeList[T any](kind string, list []T, one func(T) string) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = one(v)
	}
	text := "[" + strings.Join(parts, ",") + "]"
	if len([]rune(text)) >= 200 {
		text = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
	}
	return fmt.Sprintf("[%s] n=%d %s", kind, len(list), text)
}

// pythonText quotes as json.dumps(ensure_ascii=False) does.
func pythonText(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return err.Error()
	}
	return strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029", `\u007f`, "\x7f").Replace(strings.TrimSuffix(b.String(), "\n"))
}

// pythonNumber writes a float as Python's repr does.
func pythonNumber(x float64) string {
	s := fmt.Sprintf("%v", x)
	if x == float64(int64(x)) && !strings.ContainsAny(s, "e.") {
		return s + ".0"
	}
	return s
}

// describeShape is a shape as Python writes a list.
func describeShape(shape []int64) string {
	parts := make([]string, len(shape))
	for i, n := range shape {
		parts[i] = fmt.Sprint(n)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// describeHeader is upstream.txt of a header, by the first two words of each
// line; tensors have no digest.
func describeHeader(h gguf.Header) map[string]string {
	lines := map[string]string{}
	for _, kv := range h.Metadata {
		lines["kv "+kv.Key] = describeValue(kv.Value)
	}
	for _, t := range h.Tensors {
		lines["tensor "+t.Name] = t.Type.String() + " " + describeShape(t.Shape)
	}
	return lines
}

// sameNumber compares floats that Python and Go may write differently.
func sameNumber(a, b string) bool {
	var x, y float64
	if _, err := fmt.Sscanf(a, "FLOAT32 %g", &x); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(b, "FLOAT32 %g", &y); err != nil {
		return false
	}
	return x == y
}
