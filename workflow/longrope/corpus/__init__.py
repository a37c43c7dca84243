"""Text that models are trained and measured on: documents, then tokens in splits."""
