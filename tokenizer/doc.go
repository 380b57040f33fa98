// Package tokenizer reads the tokenizer files of a Hugging Face repository
// and turns them into a GGUF vocabulary.
//
// A repository carries one or more of: tokenizer.json (Definition), a
// SentencePiece tokenizer.model (SentencePiece), vocab.json with merges.txt,
// vocab.txt, tekken.json, or a tiktoken rank file. Load finds them;
// Files.Vocabulary makes of them the Vocabulary that llama.cpp's converter
// would have written, and Vocabulary.Metadata its KVs in that converter's
// order and types. FromMetadata is the inverse, for files already written.
//
// An Encoder turns text into ids: Files.Encoder by the rules of the repository's
// own libraries, NewGGUFEncoder by those of llama.cpp. Compare finds the first
// text on which two differ; docs/token-ids.md lists where llama.cpp must.
//
// Every reader is strict: a duplicate id, a gap, a merge of tokens that do not
// exist, a size that the file cannot hold is an error that names the file and
// the place. Nothing is replaced by a default that the file format does not
// define.
package tokenizer
