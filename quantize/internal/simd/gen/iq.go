package main

// iq writes the kernels of the IQ types.
func iq() {
	for _, g := range []*gen{{name: "AVX512", lanes: 16}, {name: "AVX2", lanes: 8}} {
		g.searchIQ4("SearchIQ4BySquare", bySquare)
		g.searchIQ4("SearchIQ4Weighted", weighted)
		g.packIQ4()
		for _, kind := range latticeKinds {
			g.latticeRound(kind)
			g.latticeNearest(kind)
			g.latticeSum(kind)
		}
		g.latticeScales()
		g.roots()
		g.ranks()
		g.searchIQ1S()
		if !g.wide() {
			g.searchIQ1M()
		}
	}
	splitSigns()
	pointDecoders()
}
