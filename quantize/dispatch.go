package quantize

// InstructionSets names those for which there are faster codecs that this
// processor can run, the best first; none where the plain ones are used.
func InstructionSets() []string {
	names := []string{}
	for _, set := range instructionSets {
		names = append(names, set.name)
	}
	return names
}
