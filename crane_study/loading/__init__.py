"""Reading models and tokenizers from files: directories, GGUF files, packages, the hub."""
