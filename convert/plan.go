package convert

import "github.com/modelpipe/modelpipe/gguf"

// Plan is everything about the output that is known before a weight is read.
type Plan struct {
	Header     gguf.Header
	Arch       string // general.architecture
	Parameters int64  // number of weights in the output
	HeaderSize int64  // bytes up to the first tensor's data
	Size       int64  // bytes of the finished file
	Steps      []Step // in the order of the file
	Notes      []string

	// NeedImportance names the tensors whose type is too coarse to be encoded
	// without importance data, and that have none. Such a plan can be read but
	// not rendered.
	NeedImportance []string
}
