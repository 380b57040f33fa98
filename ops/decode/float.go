// F32, F16 and BF16: one number per block, low byte first.

package decode

import (
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/gomlx/compute/dtypes"

	"github.com/modelpipe/modelpipe/gguf"
)

func init() {
	register(gguf.F32, func(b *Node) *Node { return Bitcast(b, dtypes.Float32) })
	register(gguf.F16, func(b *Node) *Node { return floats(Bitcast(b, dtypes.Float16)) })
	register(gguf.BF16, func(b *Node) *Node { return floats(Bitcast(b, dtypes.BFloat16)) })
}
