"""Tokenizers, speech LMs and voices ready to use, and clips and samples to use them on; `import twist` has them all."""
