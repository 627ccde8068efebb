"""Who writes descriptions: files, shipped ones, language models."""
