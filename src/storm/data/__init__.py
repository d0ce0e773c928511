"""Arrays of a section: spots, patches, genes, windows. No container is known here."""
