"""Cost of the relevance engine, compared with the released procedure and with the bare passes; see README.md."""
