"""What the relevance engine costs, against the released procedure and against the bare passes: see README.md."""
